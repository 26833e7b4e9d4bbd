// The one implementation of Runtime, in two files: runtime.cpp, and forking.cpp for what Zygotes add.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/container.h"
#include "runtime/id_ranges.h"
#include "runtime/monitor/client.h"
#include "runtime/pins.h"
#include "runtime/runtime.h"
#include "runtime/spares.h"

namespace sock::runtime {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

constexpr int kKillPatienceMs = 10000;
constexpr milliseconds kMonitorPatience{20000}, kReconnectPause{200}, kForkPatience{10000};

struct Sandbox {
  Fd user, net, ipc, uts, pid;
  Fd shm;  // a clone made ahead for the first container that asks; guarded by the table's mutex
  std::string parked, parked_zygote;  // a process that waits in it; guarded likewise
};

using IdMappings = std::vector<oci::IdMapping>;

struct Container {
  // Never change after the container is in the table.
  std::string id, sandbox_id, cgroup_path, log_path;
  PidRef process;
  Plan plan;
  double prepare_ms = 0, build_ms = 0;

  std::mutex mutex;
  std::condition_variable exited;
  ProcessState state = ProcessState::kCreated;  // guarded by mutex, as is all below
  std::optional<ExitInfo> exit;

  std::mutex use_mutex;  // of a Zygote, as is all below
  int uses = 0;
  bool frozen = false;
};

// While one lives, its Zygote and what is parked of it are not frozen.
class ZygoteUse {
 public:
  ZygoteUse() = default;
  explicit ZygoteUse(std::shared_ptr<Container> zygote) : zygote_(std::move(zygote)) {}
  ZygoteUse(ZygoteUse&&) = default;
  ZygoteUse& operator=(ZygoteUse&&) = default;
  ~ZygoteUse() {
    if (!zygote_) return;
    std::lock_guard lock(zygote_->use_mutex);
    --zygote_->uses;
  }

 private:
  std::shared_ptr<Container> zygote_;
};

struct Execution {
  Fd wake;  // eventfd(2): written at the exit
  std::mutex mutex;
  std::optional<int> code;
  bool lost = false;  // with the monitor that ran it
};

class LeanRuntime final : public Runtime {
 public:
  LeanRuntime(RuntimeOptions options, std::function<void(const std::string&, const ExitInfo&)> on_exit)
      : options_(std::move(options)), on_exit_(std::move(on_exit)) {}

  ~LeanRuntime() override {
    pools_.clear();
    {
      std::lock_guard lock(link_mutex_);
      closing_ = true;
    }
    link_changed_.notify_all();
    if (reconnector_.joinable()) reconnector_.join();
    client_.reset();
  }

  absl::Status Start() {
    RETURN_IF_ERROR(MakeDirs(options_.state_dir + "/ns", 0711));
    RETURN_IF_ERROR(MakeDirs(options_.state_dir + "/cgroups", 0700));
    ASSIGN_OR_RETURN_AS(pins_, Pins::Open(options_.state_dir + "/pins"), "open the pins of sandboxes");
    ASSIGN_OR_RETURN(cgroups_, CgroupManager::Open(options_.cgroup_driver));
    ASSIGN_OR_RETURN(network_, PodNetwork::Open(options_.network));
    ASSIGN_OR_RETURN(client_, Connect());
    reconnector_ = std::thread([this] { Reconnect(); });
    return absl::OkStatus();
  }

  absl::StatusOr<std::map<std::string, ContainerState>> Recover(const Known& known) override;
  absl::StatusOr<SandboxInfo> CreateSandbox(const SandboxSpec& spec) override;
  absl::Status StopSandbox(const SandboxSpec& spec, const SandboxInfo& info) override;
  absl::Status RemoveSandbox(const SandboxSpec& spec, const SandboxInfo& info) override;
  absl::StatusOr<ContainerInfo> CreateContainer(const ContainerSpec& spec) override;
  absl::Status StartContainer(const std::string& id) override;
  absl::Status StopContainer(const std::string& id, int signal, milliseconds grace) override;
  absl::Status RemoveContainer(const std::string& id) override;
  ContainerState State(const std::string& id) const override;
  absl::StatusOr<ExecResult> ExecSync(const std::string& id, const ExecRequest& request) override;
  absl::Status UpdateResources(const std::string& id, const oci::Resources& resources) override;
  absl::Status ReopenLog(const std::string& id) override;
  absl::StatusOr<Fields> CallZygote(const std::string& id, const Fields& request,
                                    milliseconds timeout) override;
  void KeepParked(const std::string& zygote_id, uint32_t owner_uid, int count) override;
  void ResizeParked(const std::string& zygote_id, int count) override;
  void DropParked(const std::string& zygote_id) override;
  size_t CountParked(const std::string& zygote_id) const override;
  void Unpark(const std::string& sandbox_id) override;
  absl::Status FreezeZygote(const std::string& id) override;
  absl::StatusOr<CgroupStats> Stats(const std::string& id) const override;
  absl::StatusOr<MemoryUse> Memory(const std::string& id) const override;
  absl::StatusOr<std::vector<InterfaceStats>> NetworkStats(const std::string& sandbox_id) const override;
  PodNetwork& network() override { return *network_; }
  CgroupManager& cgroups() override { return *cgroups_; }
  std::map<std::string, std::string> Verbose(const std::string& id) const override;

 private:
  std::string NsDir(const std::string& sandbox) const { return options_.state_dir + "/ns/" + sandbox; }
  std::string CgroupNote(const std::string& container) const {
    return options_.state_dir + "/cgroups/" + container;
  }
  absl::Status RemoveCgroup(const std::string& container, const std::string& cgroup) {
    RETURN_IF_ERROR(cgroups_->Remove(cgroup));
    unlink(CgroupNote(container).c_str());
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<monitor::Client>> Connect();
  // With `fork` its process is forked from a Zygote: ABORTED, DEADLINE_EXCEEDED or RESOURCE_EXHAUSTED where
  // that fails.
  absl::StatusOr<ContainerInfo> Build(const ContainerSpec& spec, const ForkRequest* fork);
  absl::StatusOr<ContainerInfo> BuildPlain(const ContainerSpec& spec);
  absl::StatusOr<monitor::Fork> ToFork(const ContainerSpec& spec, const ForkRequest& fork, const Plan& plan);
  // ABORTED where the forked process `pid` brought others with it: into the container's cgroup, or into its
  // PID namespace while they stay in the Zygote's cgroup.
  absl::Status CheckAlone(const std::string& cgroup, const ForkRequest& fork, pid_t pid) const;
  // Thaws it. Of one that is gone, nothing.
  absl::StatusOr<ZygoteUse> UseZygote(const std::string& id) const;
  absl::Status ForgetParked(const std::string& parked, const std::string& zygote_id);
  std::string TakeParked(const std::string& sandbox_id, const std::string& zygote_id);
  // Every operation but Exec and Create is asked for again where a monitor died before it answered.
  absl::StatusOr<monitor::Answer> Call(const monitor::Request& request, std::span<const int> fds = {},
                                       milliseconds timeout = {});
  absl::Status Forget(const std::string& id) {
    monitor::Request request;
    request.mutable_remove()->set_id(id);
    return Call(request).status();
  }
  // What spares are made for: no user namespace, one of nobody's, or one of a Zygote's with a process parked.
  struct SpareKind {
    bool own_users = false;
    std::string zygote_id;
    uint32_t owner_uid = 0;
  };
  static std::string PoolOf(const SpareKind& kind) {
    return !kind.own_users ? "node" : kind.zygote_id.empty() ? "blank" : "zygote " + kind.zygote_id;
  }
  absl::StatusOr<SpareSandbox> MakeSpare(const SpareKind& kind);
  void DiscardSpare(SpareSandbox spare);
  absl::StatusOr<SpareSandbox> TakeSpare(const SpareKind& kind);
  void StartPool(const SpareKind& kind, int size);
  // The fields that are asked for come back valid; with mappings `user` too, to whom the others belong.
  absl::StatusOr<Sandbox> MakeNamespaces(const std::string& id, bool net, bool ipc, bool uts, bool pid,
                                         const std::map<std::string, std::string>& sysctls,
                                         const IdMappings& uids, const IdMappings& gids,
                                         uint32_t owner_uid = 0);
  absl::Status Pin(const std::string& id, const Sandbox& sandbox, Pins::Owner owner);
  void Unpin(const std::string& sandbox);
  absl::StatusOr<std::shared_ptr<Sandbox>> FindSandbox(const std::string& id) const {
    std::shared_lock lock(mutex_);
    auto found = sandboxes_.find(id);
    if (found == sandboxes_.end()) return absl::NotFoundError(Cat("sandbox `", id, "` does not run"));
    return found->second;
  }
  absl::StatusOr<std::shared_ptr<Container>> FindContainer(const std::string& id) const {
    std::shared_lock lock(mutex_);
    auto found = containers_.find(id);
    if (found == containers_.end()) return absl::NotFoundError(Cat("container `", id, "` has no process"));
    return found->second;
  }
  absl::StatusOr<SandboxNamespaces> NamespacesOf(const ContainerSpec& spec) const;
  absl::Status MapMounts(const ContainerSpec& spec, SandboxNamespaces& namespaces);
  absl::StatusOr<Fd> OpenLog(const std::string& path) const;
  ExitInfo Explain(const Container& container, const monitor::Exit& exit) const;
  void Finish(const monitor::Exit& exit);
  void Acknowledge(const std::string& id);
  void Reconnect();
  void Resync();

  const RuntimeOptions options_;
  // The monitor's program as this daemon found it. One that takes its path later is the next daemon's.
  const std::string monitor_identity_ = monitor::ProgramIdentity(options_.monitor_program);
  const std::function<void(const std::string&, const ExitInfo&)> on_exit_;
  std::unique_ptr<CgroupManager> cgroups_;
  std::unique_ptr<PodNetwork> network_;
  std::unique_ptr<Pins> pins_;
  IdRanges ranges_;
  mutable std::mutex pools_mutex_;
  std::map<std::string, std::shared_ptr<SparePool>> pools_;  // by PoolOf
  std::map<std::string, uint32_t> zygote_owners_;            // of those that have a pool

  mutable std::mutex link_mutex_;  // guards all of the link to the monitor
  std::condition_variable link_changed_;
  std::shared_ptr<monitor::Client> client_;  // null while the monitor is looked for
  bool link_lost_ = false, closing_ = false, recovered_ = false;
  std::thread reconnector_;

  mutable std::shared_mutex mutex_;  // for lookup only
  std::map<std::string, std::shared_ptr<Sandbox>> sandboxes_;
  std::map<std::string, std::shared_ptr<Container>> containers_;
  std::map<std::string, std::shared_ptr<Execution>> executions_;
};

// capabilities(7), "Transformation of capabilities during execve()": what is left of the plan's sets after
// one, for a process that never executes.
void AsAfterExec(Plan& plan);

// The descriptors' numbers, for a call.
std::vector<int> Numbers(const std::vector<Fd>& fds);

}  // namespace sock::runtime
