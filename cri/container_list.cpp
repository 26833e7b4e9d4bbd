#include <nlohmann/json.hpp>

#include "cri/cri.h"

namespace sock::cri {

absl::Status Cri::ContainerStatus(const api::ContainerStatusRequest& request,
                                  api::ContainerStatusResponse* response) {
  ASSIGN_OR_RETURN(ContainerPtr container, containers_.Find(request.container_id()));
  auto record = container->Get();
  const api::ContainerConfig& config = record->config;
  api::ContainerStatus* status = response->mutable_status();
  status->set_id(record->id);
  *status->mutable_metadata() = config.metadata();
  status->set_state(record->state());
  status->set_created_at(record->created_at);
  status->set_started_at(record->started_at);
  status->set_finished_at(record->finished_at);
  status->set_exit_code(record->exit_code);
  *status->mutable_image() = config.image();
  if (!config.image().user_specified_image().empty()) {
    status->mutable_image()->set_image(config.image().user_specified_image());
  }
  status->set_image_ref(record->image_ref);
  status->set_image_id(record->image_id);
  status->set_reason(record->reason);
  status->set_message(record->message);
  *status->mutable_labels() = config.labels();
  *status->mutable_annotations() = config.annotations();
  *status->mutable_mounts() = config.mounts();
  for (api::Mount& mount : *status->mutable_mounts()) {
    if (!mount.has_image()) continue;
    if (auto image = images_->Get(mount.image().image()); image.ok())
      mount.mutable_image()->set_image_ref(image->id);
  }
  status->set_log_path(record->log_path);
  if (config.linux().has_resources()) {
    *status->mutable_resources()->mutable_linux() = config.linux().resources();
  }
  *status->mutable_user()->mutable_linux() = record->user;
  status->set_stop_signal(ToApiSignal(record->stop_signal));
  if (request.verbose()) {
    nlohmann::json info = runtime_->Verbose(record->id);
    // A number, as tools that enter a container by its process expect.
    if (auto pid = info.find("pid"); pid != info.end()) *pid = std::stoll(pid->get<std::string>());
    info["sandboxID"] = record->sandbox_id;
    info["cgroup"] = record->cgroup_path;
    info["forked"] = record->forked();
    if (record->forked() && !record->finished_at)
      if (auto memory = runtime_->Memory(record->id); memory.ok())
        info["memory"] = {{"privateBytes", memory->private_bytes},
                          {"sharedBytes", memory->shared_bytes},
                          {"proportionalBytes", memory->proportional_bytes},
                          {"processes", memory->processes}};
    if (!record->zygote.empty()) info["zygote"] = record->zygote;
    if (!record->not_forked.empty()) info["notForked"] = record->not_forked;
    (*response->mutable_info())["info"] = info.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return absl::OkStatus();
}

absl::Status Cri::ListContainers(const api::ListContainersRequest& request,
                                 api::ListContainersResponse* response) {
  const api::ContainerFilter& filter = request.filter();
  std::string sandbox_id;
  if (!filter.pod_sandbox_id().empty()) {
    auto sandbox = sandboxes_.Find(filter.pod_sandbox_id());
    if (!sandbox.ok()) return absl::OkStatus();
    sandbox_id = (*sandbox)->id;
  }
  std::vector<ContainerPtr> candidates;
  if (filter.id().empty()) {
    candidates = containers_.List();
  } else if (auto found = containers_.Find(filter.id()); found.ok()) {
    candidates.push_back(*found);
  }
  for (const ContainerPtr& container : candidates) {
    auto record = container->Get();
    const api::ContainerConfig& config = record->config;
    if (!sandbox_id.empty() && record->sandbox_id != sandbox_id) continue;
    if (filter.has_state() && filter.state().state() != record->state()) continue;
    if (!LabelsMatch(filter.label_selector(), config.labels())) continue;
    api::Container* item = response->add_containers();
    item->set_id(record->id);
    item->set_pod_sandbox_id(record->sandbox_id);
    *item->mutable_metadata() = config.metadata();
    *item->mutable_image() = config.image();
    item->set_image_ref(record->image_ref);
    item->set_image_id(record->image_id);
    item->set_state(record->state());
    item->set_created_at(record->created_at);
    *item->mutable_labels() = config.labels();
    *item->mutable_annotations() = config.annotations();
  }
  return absl::OkStatus();
}

}  // namespace sock::cri
