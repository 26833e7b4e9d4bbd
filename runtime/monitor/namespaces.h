// A sandbox's namespaces, made by a short-lived child of the monitor.
#pragma once

#include <sys/types.h>

#include "absl/status/status.h"
#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {

// In the forked child, which was cloned into a PID namespace of its own where `request.pid()`, and into a
// user namespace of its own where there are mappings: then it first waits on `channel` for a word that they
// are written. It unshares, brings lo up, writes sysctls, and sends a Reply with `serial` and the descriptors
// over `channel`. Then it exits, or stays as the PID namespace's init, which reaps.
[[noreturn]] void MakeNamespaces(const CreateNamespaces& request, uint64_t serial, int channel);

// In the monitor: gives the user namespace of the child `pid` its mappings (user_namespaces(7)).
// INVALID_ARGUMENT where the kernel refuses them.
absl::Status WriteMappings(const CreateNamespaces& request, pid_t pid);

}  // namespace sock::runtime::monitor
