#include <fmt/chrono.h>

#include <nlohmann/json.hpp>

#include "cri/cri.h"

namespace sock::cri {
namespace {

constexpr std::chrono::seconds kCheckPatience{1};  // tools such as crictl give up after 2 s

nlohmann::json ToJson(const sock::runtime::NetworkCheck& check) {
  nlohmann::json json = {{"pending", check.pending}};
  if (check.status) {
    json["result"] = check.status->ok() ? "ok" : "failed";
    if (!check.status->ok()) json["message"] = std::string(check.status->message());
    json["at"] = fmt::format("{:%FT%TZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(check.at)));
  }
  return json;
}

}  // namespace

bool LabelsMatch(const google::protobuf::Map<std::string, std::string>& selector,
                 const google::protobuf::Map<std::string, std::string>& labels) {
  for (const auto& [key, value] : selector) {
    auto it = labels.find(key);
    if (it == labels.end() || it->second != value) return false;
  }
  return true;
}

absl::Status Cri::PodSandboxStatus(const api::PodSandboxStatusRequest& request,
                                   api::PodSandboxStatusResponse* response) {
  ASSIGN_OR_RETURN(SandboxPtr sandbox, sandboxes_.Find(request.pod_sandbox_id()));
  auto record = sandbox->Get();
  const api::PodSandboxConfig& config = record->config;
  api::PodSandboxStatus* status = response->mutable_status();
  status->set_id(record->id);
  *status->mutable_metadata() = config.metadata();
  status->set_state(record->state());
  status->set_created_at(record->created_at);
  *status->mutable_labels() = config.labels();
  *status->mutable_annotations() = config.annotations();
  status->set_runtime_handler(record->handler);
  *status->mutable_linux()->mutable_namespaces()->mutable_options() =
      record->EffectiveConfig().linux().security_context().namespace_options();
  status->mutable_network();
  if (record->state() == api::SANDBOX_READY) {
    const auto& ips = record->info.network.ips;
    for (size_t i = 0; i < ips.size(); ++i) {
      if (i == 0) {
        status->mutable_network()->set_ip(ips[i]);
      } else {
        status->mutable_network()->add_additional_ips()->set_ip(ips[i]);
      }
    }
  }
  if (request.verbose()) {
    nlohmann::json info = runtime_->Verbose(record->id);
    info["netns"] = record->info.netns_path;
    info["cgroup_parent"] = record->cgroup_parent;
    if (!record->node_users.empty()) info["nodeUserNamespace"] = record->node_users;
    info["files"] = FilesDir(record->id);
    if (record->state() == api::SANDBOX_READY)
      if (auto check = runtime_->network().Check(record->id, kCheckPatience))
        info["networkCheck"] = ToJson(*check);
    (*response->mutable_info())["info"] = info.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return absl::OkStatus();
}

absl::Status Cri::ListPodSandbox(const api::ListPodSandboxRequest& request,
                                 api::ListPodSandboxResponse* response) {
  const api::PodSandboxFilter& filter = request.filter();
  std::vector<SandboxPtr> candidates;
  if (filter.id().empty()) {
    candidates = sandboxes_.List();
  } else if (auto found = sandboxes_.Find(filter.id()); found.ok()) {
    candidates.push_back(*found);
  }
  for (const SandboxPtr& sandbox : candidates) {
    auto record = sandbox->Get();
    const api::PodSandboxConfig& config = record->config;
    if (filter.has_state() && filter.state().state() != record->state()) continue;
    if (!LabelsMatch(filter.label_selector(), config.labels())) continue;
    api::PodSandbox* item = response->add_items();
    item->set_id(record->id);
    *item->mutable_metadata() = config.metadata();
    item->set_state(record->state());
    item->set_created_at(record->created_at);
    *item->mutable_labels() = config.labels();
    *item->mutable_annotations() = config.annotations();
    item->set_runtime_handler(record->handler);
  }
  return absl::OkStatus();
}

}  // namespace sock::cri
