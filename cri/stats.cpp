#include "cri/cri.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

void FillCpuAndMemory(const sock::runtime::CgroupStats& stats, int64_t now, api::CpuUsage* cpu,
                      api::MemoryUsage* memory) {
  cpu->set_timestamp(now);
  cpu->mutable_usage_core_nano_seconds()->set_value(stats.cpu_usage_ns);
  memory->set_timestamp(now);
  memory->mutable_usage_bytes()->set_value(stats.memory_usage);
  memory->mutable_working_set_bytes()->set_value(stats.memory_working_set);
  memory->mutable_rss_bytes()->set_value(stats.memory_rss);
  memory->mutable_page_faults()->set_value(stats.page_faults);
  memory->mutable_major_page_faults()->set_value(stats.major_page_faults);
  if (stats.memory_limit > stats.memory_working_set) {
    memory->mutable_available_bytes()->set_value(stats.memory_limit - stats.memory_working_set);
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
      FillCpuAndMemory(*stats, now, out->mutable_cpu(), out->mutable_memory());
      out->mutable_swap()->set_timestamp(now);
      out->mutable_swap()->mutable_swap_usage_bytes()->set_value(stats->swap_usage);
    }
  }
  if (auto usage = images_->SnapshotUsage(record->id); usage.ok()) {
    api::FilesystemUsage* layer = out->mutable_writable_layer();
    layer->set_timestamp(now);
    layer->mutable_fs_id()->set_mountpoint(images_->root());
    layer->mutable_used_bytes()->set_value(usage->bytes);
    layer->mutable_inodes_used()->set_value(usage->inodes);
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
  sock::runtime::CgroupStats sum;
  for (const ContainerPtr& container : ContainersOf(record->id)) {
    if (container->Get()->state() != api::CONTAINER_RUNNING) continue;
    api::ContainerStats one;
    if (!FillStats(*container, &one).ok()) continue;
    *pod->add_containers() = std::move(one);
    if (auto stats = runtime_->Stats(container->id); stats.ok()) Add(sum, *stats);
  }
  const int64_t now = NowNs();
  FillCpuAndMemory(sum, now, pod->mutable_cpu(), pod->mutable_memory());
  pod->mutable_process()->set_timestamp(now);
  pod->mutable_process()->mutable_process_count()->set_value(sum.pids);
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
