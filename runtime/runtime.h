// The lean runtime as the daemon sees it: sandboxes and containers as separate things. The implementation
// composes the rooms below it and speaks with cri-sock-monitor. Every method may be called from any thread;
// calls on different ids never wait for each other.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "oci/image_store.h"
#include "oci/runtime_spec.h"
#include "runtime/base/fd.h"
#include "runtime/base/fields.h"
#include "runtime/cgroup/cgroup.h"
#include "runtime/memory.h"
#include "runtime/network/pod_network.h"

namespace sock::runtime {

struct SandboxSpec {
  std::string id, hostname;
  bool host_network = false, host_ipc = false, host_pid = false;
  bool shared_pid = false;                                 // all containers in one PID namespace of the pod
  std::vector<oci::IdMapping> uid_mappings, gid_mappings;  // not empty: a user namespace
  std::map<std::string, std::string> sysctls;  // INVALID_ARGUMENT: not namespaced, or of a host namespace
  std::optional<PodNetworkRequest> network;    // absent: host network
  bool own_users = false;  // a user namespace with ids that the runtime chooses, where no mappings are given
  std::string
      zygote_id;  // a process of this Zygote's may enter its user namespace; with own_users one is parked
};

struct SandboxInfo {
  PodNetworkResult network;
  std::string netns_path;  // empty with host network; a file is there with CNI, whose plugins look for it
  std::vector<oci::IdMapping> uid_mappings, gid_mappings;  // with own_users: those that were chosen
  uint32_t owner_uid = 0;  // the host's user whose processes may enter the user namespace; 0: root's alone
};

// The user as the CRI states it; resolved against the container's own /etc/passwd and /etc/group.
struct UserRequest {
  std::optional<uint32_t> uid, gid;
  std::string username;  // from the CRI, or the image's "user[:group]" as it stands in its configuration
  std::vector<uint32_t> supplemental_groups;
  bool strict_groups = false;  // SupplementalGroupsPolicy Strict: image's group memberships are not merged
};

// The source of a bind mount that stands for the sandbox's own /dev/shm.
inline constexpr char kSandboxShm[] = "sandbox:shm";

// A container's first process is forked from a Zygote that runs.
struct ForkRequest {
  std::string zygote_id;
  bool confined = false;     // the Zygote's filter lets it change no mount that the container can't
  Fields program{"become"};  // mode, target, argument, option, arg: zygote/protocol.md
};

struct ContainerSpec {
  std::string id, sandbox_id;
  oci::Spec spec;  // process.user is filled in from `user`; cgroups_path is set
  UserRequest user;
  oci::Rootfs rootfs;
  std::string log_path;  // empty: output is drained and dropped
  bool stdin_open = false, stdin_once = false;
  std::string target_pid_container;  // NamespaceMode TARGET: join that container's PID namespace
  bool host_network = false, host_ipc = false, host_pid = false, shared_pid = false;
  std::optional<ForkRequest> fork;  // where it fails the plain way is taken
  // A Zygote: in no sandbox but fresh, empty namespaces, and in the monitor's PID namespace; its image's
  // files lose setuid bits, file capabilities and device nodes. CallZygote speaks with it once it is started.
  bool zygote = false;
};

struct ExitInfo {
  int exit_code = 0;  // 128 + signal when killed by one
  bool oom_killed = false;
  std::string reason;   // "Completed", "Error", "OOMKilled", "Unknown"
  std::string message;  // what could not be known, and why
  std::chrono::system_clock::time_point finished_at;
};

struct ContainerInfo {
  pid_t pid = 0;
  oci::User user;  // as resolved
  bool forked = false;
  std::string not_forked;  // with ContainerSpec::fork: why the plain way was taken
};

enum class ProcessState { kCreated, kRunning, kExited, kGone };

struct ContainerState {
  ProcessState state = ProcessState::kGone;
  pid_t pid = 0;
  std::optional<ExitInfo> exit;
};

struct ExecRequest {
  std::vector<std::string> args;
  std::chrono::milliseconds timeout{0};  // 0: none
  size_t output_limit = 16 << 20;        // per stream; what exceeds it is dropped
};
struct ExecResult {
  int exit_code = 0;
  std::string out, err;
};

struct RuntimeOptions {
  std::string state_dir;        // /run/cri-sock
  std::string monitor_program;  // beside the daemon by default
  std::string cgroup_driver = "cgroupfs";
  int spare_sandboxes = 8;  // network namespaces made and wired ahead of need
  PodNetworkOptions network;
};

class Runtime {
 public:
  // Connects to the living monitor of `state_dir`, or starts one. `on_exit` is called once per container
  // exit, from a thread of the runtime, also for those that ended while no daemon ran; never before Recover
  // returned.
  static absl::StatusOr<std::unique_ptr<Runtime>> Open(
      RuntimeOptions options, std::function<void(const std::string& id, const ExitInfo&)> on_exit);
  virtual ~Runtime() = default;

  // After a restart: what was recorded, so that namespaces, addresses and processes are adopted. Whatever of
  // ours is on the machine and not among these is removed. Returns the state of each container.
  struct Known {
    struct Sandbox {
      SandboxSpec spec;
      SandboxInfo info;
    };
    struct Container {
      std::string id, sandbox_id, cgroup_path, log_path;
    };
    std::vector<Sandbox> sandboxes;
    std::vector<Container> containers;
  };
  virtual absl::StatusOr<std::map<std::string, ContainerState>> Recover(const Known& known) = 0;

  virtual absl::StatusOr<SandboxInfo> CreateSandbox(const SandboxSpec& spec) = 0;
  // Ends what runs in it and detaches the network. Idempotent; gone is success.
  virtual absl::Status StopSandbox(const SandboxSpec& spec, const SandboxInfo& info) = 0;
  virtual absl::Status RemoveSandbox(const SandboxSpec& spec, const SandboxInfo& info) = 0;

  // Everything up to, not including, the program: a process at the barrier. NOT_FOUND names a mount source,
  // user, working directory or program that is not there; INVALID_ARGUMENT what is wrong. On failure nothing
  // is left.
  virtual absl::StatusOr<ContainerInfo> CreateContainer(const ContainerSpec& spec) = 0;
  // GO. Returns after exec succeeded or with its error. FAILED_PRECONDITION unless kCreated.
  virtual absl::Status StartContainer(const std::string& id) = 0;
  // Sends `signal`, waits up to `grace`, then kills everything in the cgroup. Idempotent; gone is success.
  virtual absl::Status StopContainer(const std::string& id, int signal, std::chrono::milliseconds grace) = 0;
  // Forgets an exited or created container: process, cgroup, stdio. Gone is success.
  virtual absl::Status RemoveContainer(const std::string& id) = 0;
  virtual ContainerState State(const std::string& id) const = 0;
  virtual absl::StatusOr<ExecResult> ExecSync(const std::string& id, const ExecRequest& request) = 0;
  virtual absl::Status UpdateResources(const std::string& id, const oci::Resources& resources) = 0;
  virtual absl::Status ReopenLog(const std::string& id) = 0;
  virtual absl::StatusOr<CgroupStats> Stats(const std::string& id) const = 0;
  // Of all processes in its cgroup. What they share among themselves counts as shared.
  virtual absl::StatusOr<MemoryUse> Memory(const std::string& id) const = 0;
  virtual absl::StatusOr<std::vector<InterfaceStats>> NetworkStats(const std::string& sandbox_id) const = 0;

  // One request of zygote/protocol.md. ABORTED: the Zygote failed or is gone; DEADLINE_EXCEEDED.
  virtual absl::StatusOr<Fields> CallZygote(const std::string& id, const Fields& request,
                                            std::chrono::milliseconds timeout) = 0;
  // So many sandboxes are kept ready in each of which a process of the Zygote's is parked, and which belong
  // to its host user. Until DropParked sandboxes can be made for it.
  virtual void KeepParked(const std::string& zygote_id, uint32_t owner_uid, int count) = 0;
  // Another number of them, where KeepParked has been told of the Zygote.
  virtual void ResizeParked(const std::string& zygote_id, int count) = 0;
  virtual void DropParked(const std::string& zygote_id) = 0;
  virtual size_t CountParked(const std::string& zygote_id) const = 0;  // that wait in no pod
  // The process that is parked in the sandbox ends; whoever asks for one later has it forked then.
  virtual void Unpark(const std::string& sandbox_id) = 0;
  // Stops the Zygote and what is parked of it (cgroup freezer) until any of them is needed: whatever needs it
  // thaws it first. FAILED_PRECONDITION while it is in use.
  virtual absl::Status FreezeZygote(const std::string& id) = 0;

  virtual PodNetwork& network() = 0;
  virtual CgroupManager& cgroups() = 0;
  virtual std::map<std::string, std::string> Verbose(
      const std::string& id) const = 0;  // pid, cgroup, namespaces, phase times
};

}  // namespace sock::runtime
