#include <algorithm>

#include "cri/cri.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
// A layer is walked at most this part of the time.
constexpr int64_t kWalkShare = 50;

void FillPressure(const sock::runtime::Pressure& pressure, api::PsiStats* out) {
  auto fill = [](const sock::runtime::Pressure::Share& share, api::PsiData* data) {
    data->set_total(share.total_ns);
    data->set_avg10(share.avg10);
    data->set_avg60(share.avg60);
    data->set_avg300(share.avg300);
  };
  fill(pressure.some, out->mutable_some());
  fill(pressure.full, out->mutable_full());
}

// For ContainerStats and LinuxPodSandboxStats alike.
template <typename Stats>
void FillCgroup(const sock::runtime::CgroupStats& stats, int64_t now, std::optional<uint64_t> nano_cores,
                Stats* out) {
  api::CpuUsage* cpu = out->mutable_cpu();
  cpu->set_timestamp(now);
  cpu->mutable_usage_core_nano_seconds()->set_value(stats.cpu_usage_ns);
  if (nano_cores) cpu->mutable_usage_nano_cores()->set_value(*nano_cores);
  api::MemoryUsage* memory = out->mutable_memory();
  memory->set_timestamp(now);
  memory->mutable_usage_bytes()->set_value(stats.memory_usage);
  memory->mutable_working_set_bytes()->set_value(stats.memory_working_set);
  memory->mutable_rss_bytes()->set_value(stats.memory_rss);
  memory->mutable_page_faults()->set_value(stats.page_faults);
  memory->mutable_major_page_faults()->set_value(stats.major_page_faults);
  if (stats.memory_limit) {
    memory->mutable_available_bytes()->set_value(stats.memory_limit -
                                                 std::min(stats.memory_limit, stats.memory_working_set));
  }
  if (stats.cpu_pressure) FillPressure(*stats.cpu_pressure, cpu->mutable_psi());
  if (stats.memory_pressure) FillPressure(*stats.memory_pressure, memory->mutable_psi());
  if (stats.io_pressure) {
    out->mutable_io()->set_timestamp(now);
    FillPressure(*stats.io_pressure, out->mutable_io()->mutable_psi());
  }
}

void Add(sock::runtime::CgroupStats& sum, const sock::runtime::CgroupStats& part) {
  sum.cpu_usage_ns += part.cpu_usage_ns;
  sum.memory_usage += part.memory_usage;
  sum.memory_working_set += part.memory_working_set;
  sum.memory_rss += part.memory_rss;
  sum.page_faults += part.page_faults;
  sum.major_page_faults += part.major_page_faults;
  sum.pids += part.pids;
}

}  // namespace

void Cri::SampleUsage() {
  std::map<std::string, UsageSample> before, next;
  {
    std::lock_guard lock(usage_mutex_);
    before = usage_;
  }
  for (const ContainerPtr& container : containers_.List()) {
    auto record = container->Get();
    UsageSample usage = before[record->id];
    if (record->state() == api::CONTAINER_RUNNING) {
      const int64_t now = NowNs();
      if (auto stats = runtime_->Stats(record->id); stats.ok()) {
        usage.nano_cores = usage.Rate(now, stats->cpu_usage_ns);
        usage.at = now;
        usage.cpu_ns = stats->cpu_usage_ns;
      }
    }
    // What has ended writes no more: one last look.
    const bool final = record->finished_at && usage.layer_at > record->finished_at;
    if (const int64_t now = NowNs(); now >= usage.layer_due && !final) {
      auto layer = images_->SnapshotUsage(record->id);
      usage.layer_at = NowNs();
      usage.layer_due = usage.layer_at + (usage.layer_at - now) * kWalkShare;
      if (layer.ok()) usage.layer = *layer;
    }
    next[record->id] = usage;
  }
  std::lock_guard lock(usage_mutex_);
  usage_ = std::move(next);
}

std::optional<uint64_t> UsageSample::Rate(int64_t now, uint64_t cpu_ns_now) const {
  if (!at || now - at < kSecondNs || cpu_ns_now < cpu_ns) return nano_cores;
  return static_cast<uint64_t>(static_cast<double>(cpu_ns_now - cpu_ns) * static_cast<double>(kSecondNs) /
                               static_cast<double>(now - at));
}

std::optional<uint64_t> Cri::NanoCores(const std::string& id, int64_t now, uint64_t cpu_ns) const {
  std::lock_guard lock(usage_mutex_);
  auto it = usage_.find(id);
  return it == usage_.end() ? std::nullopt : it->second.Rate(now, cpu_ns);
}

absl::Status Cri::FillStats(const Container& container, api::ContainerStats* out) const {
  auto record = container.Get();
  api::ContainerAttributes* attributes = out->mutable_attributes();
  attributes->set_id(record->id);
  *attributes->mutable_metadata() = record->config.metadata();
  *attributes->mutable_labels() = record->config.labels();
  *attributes->mutable_annotations() = record->config.annotations();
  const int64_t now = NowNs();
  if (!record->finished_at) {
    auto stats = runtime_->Stats(record->id);
    // It may have ended meanwhile.
    if (!stats.ok() && !container.Get()->finished_at) return stats.status();
    if (stats.ok()) {
      FillCgroup(*stats, now, NanoCores(record->id, now, stats->cpu_usage_ns), out);
      api::SwapUsage* swap = out->mutable_swap();
      swap->set_timestamp(now);
      swap->mutable_swap_usage_bytes()->set_value(stats->swap_usage);
      if (stats->swap_limit) {
        swap->mutable_swap_available_bytes()->set_value(*stats->swap_limit -
                                                        std::min(*stats->swap_limit, stats->swap_usage));
      }
    }
  }
  std::lock_guard lock(usage_mutex_);
  if (auto it = usage_.find(record->id); it != usage_.end() && it->second.layer) {
    api::FilesystemUsage* layer = out->mutable_writable_layer();
    layer->set_timestamp(it->second.layer_at);
    layer->mutable_fs_id()->set_mountpoint(images_->root());
    layer->mutable_used_bytes()->set_value(it->second.layer->bytes);
    layer->mutable_inodes_used()->set_value(it->second.layer->inodes);
  }
  return absl::OkStatus();
}

absl::Status Cri::FillPodStats(const Sandbox& sandbox, api::PodSandboxStats* out) const {
  auto record = sandbox.Get();
  api::PodSandboxAttributes* attributes = out->mutable_attributes();
  attributes->set_id(record->id);
  *attributes->mutable_metadata() = record->config.metadata();
  *attributes->mutable_labels() = record->config.labels();
  *attributes->mutable_annotations() = record->config.annotations();
  api::LinuxPodSandboxStats* pod = out->mutable_linux();
  sock::runtime::CgroupStats whole;
  uint64_t nano_cores = 0;
  bool rated = false;
  for (const ContainerPtr& container : ContainersOf(record->id)) {
    if (container->Get()->state() != api::CONTAINER_RUNNING) continue;
    api::ContainerStats one;
    if (!FillStats(*container, &one).ok()) continue;
    rated = rated || one.cpu().has_usage_nano_cores();
    nano_cores += one.cpu().usage_nano_cores().value();
    *pod->add_containers() = std::move(one);
    if (auto stats = runtime_->Stats(container->id); stats.ok()) Add(whole, *stats);
  }
  // A parent that kubelet names is this pod's alone: it also counts containers that have ended, and knows the
  // limit.
  if (!record->config.linux().cgroup_parent().empty()) {
    if (auto stats = runtime_->cgroups().Stats(record->cgroup_parent); stats.ok()) whole = *stats;
  }
  const int64_t now = NowNs();
  FillCgroup(whole, now, rated ? std::optional(nano_cores) : std::nullopt, pod);
  pod->mutable_process()->set_timestamp(now);
  pod->mutable_process()->mutable_process_count()->set_value(whole.pids);
  if (record->state() == api::SANDBOX_READY && !record->info.netns_path.empty()) {
    if (auto interfaces = runtime_->NetworkStats(record->id); interfaces.ok()) {
      api::NetworkUsage* network = pod->mutable_network();
      network->set_timestamp(now);
      bool first = true;
      for (const auto& interface : *interfaces) {
        api::NetworkInterfaceUsage* one =
            first ? network->mutable_default_interface() : network->add_interfaces();
        first = false;
        one->set_name(interface.name);
        one->mutable_rx_bytes()->set_value(interface.rx_bytes);
        one->mutable_rx_errors()->set_value(interface.rx_errors);
        one->mutable_tx_bytes()->set_value(interface.tx_bytes);
        one->mutable_tx_errors()->set_value(interface.tx_errors);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Cri::ContainerStats(const api::ContainerStatsRequest& request,
                                 api::ContainerStatsResponse* response) {
  ASSIGN_OR_RETURN(ContainerPtr container, containers_.Find(request.container_id()));
  return FillStats(*container, response->mutable_stats());
}

absl::Status Cri::ListContainerStats(const api::ListContainerStatsRequest& request,
                                     api::ListContainerStatsResponse* response) {
  const auto& filter = request.filter();
  for (const ContainerPtr& container : containers_.List()) {
    auto record = container->Get();
    if (record->state() != api::CONTAINER_RUNNING) continue;
    if (!filter.id().empty() && record->id.rfind(filter.id(), 0) != 0) continue;
    if (!filter.pod_sandbox_id().empty() && record->sandbox_id.rfind(filter.pod_sandbox_id(), 0) != 0)
      continue;
    if (!LabelsMatch(filter.label_selector(), record->config.labels())) continue;
    api::ContainerStats stats;
    if (FillStats(*container, &stats).ok()) *response->add_stats() = std::move(stats);
  }
  return absl::OkStatus();
}

absl::Status Cri::PodSandboxStats(const api::PodSandboxStatsRequest& request,
                                  api::PodSandboxStatsResponse* response) {
  ASSIGN_OR_RETURN(SandboxPtr sandbox, sandboxes_.Find(request.pod_sandbox_id()));
  return FillPodStats(*sandbox, response->mutable_stats());
}

absl::Status Cri::ListPodSandboxStats(const api::ListPodSandboxStatsRequest& request,
                                      api::ListPodSandboxStatsResponse* response) {
  const auto& filter = request.filter();
  for (const SandboxPtr& sandbox : sandboxes_.List()) {
    auto record = sandbox->Get();
    if (record->state() != api::SANDBOX_READY) continue;
    if (!filter.id().empty() && record->id.rfind(filter.id(), 0) != 0) continue;
    if (!LabelsMatch(filter.label_selector(), record->config.labels())) continue;
    api::PodSandboxStats stats;
    if (FillPodStats(*sandbox, &stats).ok()) *response->add_stats() = std::move(stats);
  }
  return absl::OkStatus();
}

}  // namespace sock::cri
