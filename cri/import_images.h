// `sockctl images import`: fills the image store while no daemon runs.
#pragma once

#include <string>

namespace sock::cri {

// Imports an OCI layout folder or tar at `path` into the store under `root` (/var/lib/cri-sock), under `name`
// where it is not empty, and prints the ids. Refuses while a daemon holds the root. The exit status; errors
// go to stderr.
int ImportImages(const std::string& root, const std::string& path, const std::string& name);

}  // namespace sock::cri
