// The CRI's methods over a Runtime and an ImageStore, without gRPC: one method per RPC, each in the file of
// its group. Every method may be called from any thread. Errors are the codes that the CRI's client sees.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "cri/config.h"
#include "cri/events.h"
#include "cri/store.h"
#include "oci/image_store.h"
#include "runtime/runtime.h"
#include "zygote/zygotes.h"

namespace sock::cri {

// How a container ended as the runtime tells it, or 255 "Unknown" with `unknown` as message, and now as its
// time.
sock::runtime::ExitInfo ExitOrUnknown(const sock::runtime::ContainerState& state, const char* unknown);

// What statistics need and nobody may wait for: CPU time a while ago, for a rate, and the size of the
// writable layer. Times are nanoseconds since the epoch, 0: never.
struct UsageSample {
  int64_t at = 0;  // of cpu_ns
  uint64_t cpu_ns = 0;
  std::optional<uint64_t> nano_cores;  // the rate as it was then
  std::optional<oci::Usage> layer;
  int64_t layer_at = 0, layer_due = 0;

  // CPU nanoseconds per second since the sample where that is a second old, else as it was then. Absent
  // before the first.
  std::optional<uint64_t> Rate(int64_t now, uint64_t cpu_ns_now) const;
};

class Cri {
  using SandboxPtr = std::shared_ptr<Sandbox>;
  using ContainerPtr = std::shared_ptr<Container>;

 public:
  // `runtime` and `images` are not owned and outlive it. OnExit may come before Recover: it is ignored for
  // unknown ids.
  Cri(Config config, std::string state_dir);
  void Use(sock::runtime::Runtime* runtime, oci::ImageStore* images) {
    runtime_ = runtime;
    images_ = images;
  }
  // From the end of Recover until null is given.
  void UseZygotes(zygote::Zygotes* zygotes) {
    std::unique_lock lock(exits_mutex_);  // OnExit may come still
    zygotes_ = zygotes;
    if (zygotes == nullptr) return;
    for (const ContainerPtr& container : containers_.List())
      if (auto record = container->Get(); record->forked() && !record->finished_at)
        zygotes->Adopt(record->zygote, record->id);
  }

  // Loads the records, has the runtime adopt what lives, removes what nobody owns. What could not be mended
  // without being fatal is told in `warnings`.
  absl::Status Recover(std::vector<std::string>& warnings);
  void OnExit(const std::string& id, const sock::runtime::ExitInfo& exit);

  absl::Status Version(const api::VersionRequest&, api::VersionResponse*);
  absl::Status Status(const api::StatusRequest&, api::StatusResponse*);
  absl::Status RuntimeConfig(const api::RuntimeConfigRequest&, api::RuntimeConfigResponse*);
  absl::Status UpdateRuntimeConfig(const api::UpdateRuntimeConfigRequest&, api::UpdateRuntimeConfigResponse*);

  absl::Status RunPodSandbox(const api::RunPodSandboxRequest&, api::RunPodSandboxResponse*);
  absl::Status StopPodSandbox(const api::StopPodSandboxRequest&, api::StopPodSandboxResponse*);
  absl::Status RemovePodSandbox(const api::RemovePodSandboxRequest&, api::RemovePodSandboxResponse*);
  absl::Status PodSandboxStatus(const api::PodSandboxStatusRequest&, api::PodSandboxStatusResponse*);
  absl::Status ListPodSandbox(const api::ListPodSandboxRequest&, api::ListPodSandboxResponse*);
  // Keeps what kubelet has set on the pod's cgroup itself.
  absl::Status UpdatePodSandboxResources(const api::UpdatePodSandboxResourcesRequest&,
                                         api::UpdatePodSandboxResourcesResponse*);

  absl::Status CreateContainer(const api::CreateContainerRequest&, api::CreateContainerResponse*);
  absl::Status StartContainer(const api::StartContainerRequest&, api::StartContainerResponse*);
  absl::Status StopContainer(const api::StopContainerRequest&, api::StopContainerResponse*);
  absl::Status RemoveContainer(const api::RemoveContainerRequest&, api::RemoveContainerResponse*);
  absl::Status ContainerStatus(const api::ContainerStatusRequest&, api::ContainerStatusResponse*);
  absl::Status ListContainers(const api::ListContainersRequest&, api::ListContainersResponse*);
  absl::Status UpdateContainerResources(const api::UpdateContainerResourcesRequest&,
                                        api::UpdateContainerResourcesResponse*);
  absl::Status ReopenContainerLog(const api::ReopenContainerLogRequest&, api::ReopenContainerLogResponse*);
  absl::Status ExecSync(const api::ExecSyncRequest&, api::ExecSyncResponse*);

  absl::Status ContainerStats(const api::ContainerStatsRequest&, api::ContainerStatsResponse*);
  absl::Status ListContainerStats(const api::ListContainerStatsRequest&, api::ListContainerStatsResponse*);
  absl::Status PodSandboxStats(const api::PodSandboxStatsRequest&, api::PodSandboxStatsResponse*);
  absl::Status ListPodSandboxStats(const api::ListPodSandboxStatsRequest&, api::ListPodSandboxStatsResponse*);
  // Looks at CPU time and writable layers of all containers; called every kSampleSeconds by one thread. A
  // layer that takes long to walk is walked less often.
  static constexpr int kSampleSeconds = 10;
  void SampleUsage();
  // Events of sandboxes carry the sandbox's id as container's.
  Events& events() { return events_; }

  // In Prometheus' text format.
  std::string Metrics() const;

  absl::Status ListImages(const api::ListImagesRequest&, api::ListImagesResponse*);
  absl::Status ImageStatus(const api::ImageStatusRequest&, api::ImageStatusResponse*);
  absl::Status PullImage(const api::PullImageRequest&, std::function<bool()> cancelled,
                         api::PullImageResponse*);
  absl::Status RemoveImage(const api::RemoveImageRequest&, api::RemoveImageResponse*);
  absl::Status ImageFsInfo(const api::ImageFsInfoRequest&, api::ImageFsInfoResponse*);

 private:
  std::string FilesDir(const std::string& sandbox_id) const {
    return state_dir_ + "/sandbox-files/" + sandbox_id;
  }
  // resolv.conf, hosts and hostname.
  absl::Status WriteSandboxFiles(const SandboxRecord& record);
  absl::Status RemoveSandboxFiles(const std::string& sandbox_id);
  // With the statuses as they are now.
  api::ContainerEventResponse MakeEvent(api::ContainerEventType type, const std::string& id,
                                        const std::string& sandbox_id);
  // Tells whoever listens.
  void Emit(api::ContainerEventType type, const std::string& id, const std::string& sandbox_id);
  // Records an exit once; later ones change nothing.
  absl::Status RecordExit(Container& container, const sock::runtime::ExitInfo& exit);
  // What CreateContainer makes once the names are reserved. With `own_users` in the sandbox's own user
  // namespace, where that is the runtime's choice, else in the node's.
  absl::Status MakeContainer(const SandboxRecord& pod, const api::ContainerConfig& config,
                             const oci::Image& image, bool own_users, ContainerRecord& record);
  std::vector<ContainerPtr> ContainersOf(const std::string& sandbox_id) const;
  // Both with the sandbox's op held exclusively.
  absl::Status StopSandboxLocked(Sandbox& sandbox);
  absl::Status RemoveContainerLocked(Container& container);
  // Ends it and records how it ended.
  absl::Status EndContainer(Container& container, int signal, std::chrono::milliseconds grace);
  std::optional<uint64_t> NanoCores(const std::string& id, int64_t now, uint64_t cpu_ns) const;
  absl::Status FillStats(const Container& container, api::ContainerStats* out) const;
  absl::Status FillPodStats(const Sandbox& sandbox, api::PodSandboxStats* out) const;

  const Config config_;
  const std::string state_dir_;
  Table<SandboxRecord> sandboxes_;
  Table<ContainerRecord> containers_;
  Events events_;
  mutable std::mutex usage_mutex_;
  std::map<std::string, UsageSample> usage_;  // by container
  sock::runtime::Runtime* runtime_ = nullptr;
  oci::ImageStore* images_ = nullptr;
  std::shared_mutex exits_mutex_;
  std::atomic<zygote::Zygotes*> zygotes_ = nullptr;
};

// Every pair of `selector` stands in `labels`.
bool LabelsMatch(const google::protobuf::Map<std::string, std::string>& selector,
                 const google::protobuf::Map<std::string, std::string>& labels);
// "SIGTERM", "TERM", "15", "SIGRTMIN+3" or "" (SIGTERM). INVALID_ARGUMENT otherwise.
absl::StatusOr<int> ParseSignal(const std::string& text);
// The CRI's name of a signal number, and the number of the CRI's name (0 for SIGNAL_RUNTIME_DEFAULT).
api::Signal ToApiSignal(int number);
absl::StatusOr<int> FromApiSignal(api::Signal signal);

}  // namespace sock::cri
