// A sandbox's namespaces, made by a short-lived child of the monitor.
#pragma once

#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {

// In the forked child, which was cloned into a PID namespace of its own where `request.pid()`: unshares,
// brings lo up, writes sysctls, and sends a Reply with `serial` and the descriptors over `channel`. Then it
// exits, or stays as the PID namespace's init, which reaps.
[[noreturn]] void MakeNamespaces(const CreateNamespaces& request, uint64_t serial, int channel);

}  // namespace sock::runtime::monitor
