// What a machine must have for the daemon to serve.
#pragma once

namespace sock::cri {

// Prints one line per check to stdout and, where something is missing, the command that mends it. 0, or 1
// where something is missing.
int Doctor();

}  // namespace sock::cri
