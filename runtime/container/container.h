// One plan for every container: made in the daemon, carried out by one function in a child of the monitor.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "oci/image_store.h"
#include "oci/runtime_spec.h"
#include "runtime/base/fd.h"
#include "runtime/base/pidref.h"
#include "runtime/container/plan.pb.h"  // message Plan: flat; refers to descriptors by their index in `fds`
#include "runtime/runtime.h"

namespace sock::runtime {

struct PreparedPlan {
  Plan plan;  // plan.clone_flags(): namespaces that the monitor's clone3 makes (NEWPID, NEWNS, NEWCGROUP …)
  std::vector<Fd> fds;  // namespaces to join, detached mounts, cgroup entries; stdio is added by the monitor
  oci::User user;       // as resolved
};

struct SandboxNamespaces {  // invalid: the host's
  Fd user, net, ipc, uts, pid;
  Fd shm;  // a detached mount for kSandboxShm
  // Those of idmapped mounts whose mappings aren't the sandbox's own; made for nothing else.
  struct Mapped {
    std::vector<oci::IdMapping> uids, gids;
    Fd user;
  };
  std::vector<Mapped> mapped;
};

// An option of a bind mount, of our own: its mounts are copied in a mount namespace made for that. Such a
// namespace lacks the files of mount namespaces pinned in the tree (as snap's under /run/snapd/ns); with
// those, the child cannot attach the copy: ELOOP, since its namespace is younger. It costs a copy of the
// whole table.
inline constexpr char kCloneApart[] = "clone-apart";

// In the daemon. Opens and clones every mount, mounts the overlay detached, resolves the user, compiles
// seccomp (cached). With `namespaces.user`, `spec.spec` holds its mappings, and an id that they lack is
// INVALID_ARGUMENT. Errors as Runtime::CreateContainer. `fds` hold everything, so nothing is left behind when
// the result is dropped.
absl::StatusOr<PreparedPlan> PrepareContainer(const ContainerSpec& spec, const SandboxNamespaces& namespaces,
                                              CgroupEntry cgroup);

// The plan of a further process (exec) in a container that runs, from the container's own: its credentials
// and environment, nothing of what builds a root. It joins the namespaces of `process`, the container's;
// NOT_FOUND: that has exited.
absl::StatusOr<PreparedPlan> PrepareExec(const Plan& container, const PidRef& process,
                                         const std::vector<std::string>& args, CgroupEntry cgroup);

// user_namespaces(7): what the host calls `id` of the namespace. INVALID_ARGUMENT names `what` where it is
// not mapped.
absl::StatusOr<uint32_t> HostId(const std::vector<oci::IdMapping>& mappings, uint32_t id,
                                std::string_view what);

// Sets the plan's resource limits on a process (prlimit(2); 0: this one). Where raising a hard limit is not
// permitted, as much as is allowed.
absl::Status SetRlimits(pid_t pid, const Plan& plan);

// Puts every permitted capability of this thread into its effective set (capabilities(7)).
absl::Status RaiseCapabilities();

// In the forked child, single-threaded, as root of the host. `stdio` become 0, 1 and 2. When all is built it
// sends one message {ready} over `barrier` (SOCK_SEQPACKET, CLOEXEC), waits for one message from the other
// side, then executes the program; end of file there instead of a message: it exits. A failed step sends
// {step, errno, text} and exits 127. So after GO, end of file without a report means that the program runs.
// Returns never, allocates little, and never throws.
[[noreturn]] void CarryOut(const Plan& plan, std::vector<Fd> fds, int stdio[3], int barrier);

}  // namespace sock::runtime
