#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cri/cri.h"
#include "cri/metrics.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

nlohmann::json MemoryJson(const sock::runtime::MemoryUse& memory) {
  return {{"privateBytes", memory.private_bytes},
          {"sharedBytes", memory.shared_bytes},
          {"proportionalBytes", memory.proportional_bytes},
          {"processes", memory.processes}};
}

nlohmann::json ZygoteJson(const zygote::ZygoteStatus& one) {
  return {{"key", one.key},
          {"id", one.id},
          {"image", one.image},
          {"state", one.state},
          {"reason", one.reason},
          {"lastMiss", one.last_miss},
          {"modules", one.modules},
          {"learnt", one.learnt},
          {"trustDomain", one.trust_domain},
          {"uid", one.uid},
          {"hits", one.hits},
          {"misses", one.misses},
          {"predicted", one.predicted},
          {"predictedHits", one.predicted_hits},
          {"predictedMisses", one.predicted_misses},
          {"startMilliseconds", one.start_ms},
          {"importMilliseconds", one.import_ms},
          {"savedMilliseconds", one.saved_ms},
          {"forks", one.forks},
          {"memoryBytes", one.memory_bytes},
          {"memory", MemoryJson(one.memory)},
          {"parked", one.parked},
          {"frozen", one.frozen},
          {"containers", one.containers},
          {"containersMemory", MemoryJson(one.containers_memory)},
          {"madeAt", one.made_at.time_since_epoch() / std::chrono::nanoseconds(1)}};
}

}  // namespace

Cri::Cri(Config config, std::string state_dir)
    : config_(std::move(config)),
      state_dir_(std::move(state_dir)),
      sandboxes_("sandbox", state_dir_ + "/sandboxes"),
      containers_("container", state_dir_ + "/containers") {}

absl::Status Cri::Version(const api::VersionRequest&, api::VersionResponse* response) {
  response->set_version("0.1.0");  // of the kubelet's runtime API, as every runtime answers
  response->set_runtime_name("cri-sock");
  response->set_runtime_version(CRI_SOCK_VERSION);
  response->set_runtime_api_version("v1");
  return absl::OkStatus();
}

absl::Status Cri::Status(const api::StatusRequest& request, api::StatusResponse* response) {
  api::RuntimeCondition* ready = response->mutable_status()->add_conditions();
  ready->set_type("RuntimeReady");
  ready->set_status(true);
  api::RuntimeCondition* network = response->mutable_status()->add_conditions();
  network->set_type("NetworkReady");
  absl::Status network_ready = runtime_->network().Ready();
  network->set_status(network_ready.ok());
  if (!network_ready.ok()) {
    network->set_reason("NetworkNotReady");
    network->set_message(std::string(network_ready.message()));
  }
  for (const std::string& name : config_.handlers) response->add_runtime_handlers()->set_name(name);
  for (auto& handler : *response->mutable_runtime_handlers()) {
    handler.mutable_features()->set_recursive_read_only_mounts(true);
    handler.mutable_features()->set_user_namespaces(access("/proc/self/ns/user", F_OK) == 0);
  }
  response->mutable_features()->set_supplemental_groups_policy(true);
  if (request.verbose()) {
    nlohmann::json info = {{"version", CRI_SOCK_VERSION},
                           {"state_dir", state_dir_},
                           {"image_root", images_->root()},
                           {"cgroup_driver", config_.cgroup_driver},
                           {"network", runtime_->network().Describe()},
                           {"handlers", config_.handlers},
                           {"sandboxes", sandboxes_.List().size()},
                           {"containers", containers_.List().size()}};
    (*response->mutable_info())["config"] =
        info.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    nlohmann::json zygotes = nlohmann::json::array();
    if (zygote::Zygotes* known = zygotes_; known != nullptr) {
      const zygote::ZygotesStatus all = known->List();
      for (const zygote::ZygoteStatus& one : all.zygotes) zygotes.push_back(ZygoteJson(one));
      nlohmann::json sum = {
          {"misses", all.misses}, {"retainedBytes", all.retained_bytes}, {"memoryBudget", all.memory_budget}};
      (*response->mutable_info())["zygotesTotal"] = sum.dump();
    }
    (*response->mutable_info())["zygotes"] =
        zygotes.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return absl::OkStatus();
}

std::string Cri::Metrics() const {
  std::map<std::string, uint64_t> pods{{"ready", 0}, {"not ready", 0}};
  std::map<std::string, uint64_t> containers{{"created", 0}, {"running", 0}, {"exited", 0}};
  for (const SandboxPtr& sandbox : sandboxes_.List())
    ++pods[sandbox->Get()->state() == api::SANDBOX_READY ? "ready" : "not ready"];
  for (const ContainerPtr& container : containers_.List()) {
    const api::ContainerState state = container->Get()->state();
    ++containers[state == api::CONTAINER_CREATED   ? "created"
                 : state == api::CONTAINER_RUNNING ? "running"
                                                   : "exited"];
  }
  zygote::ZygotesStatus all;
  if (zygote::Zygotes* known = zygotes_; known != nullptr) all = known->List();
  return CountMetrics(pods, containers, runtime_->network().CountChecks()) +
         ZygoteMetrics(all, std::chrono::system_clock::now());
}

absl::Status Cri::RuntimeConfig(const api::RuntimeConfigRequest&, api::RuntimeConfigResponse* response) {
  response->mutable_linux()->set_cgroup_driver(config_.cgroup_driver == "systemd" ? api::SYSTEMD
                                                                                  : api::CGROUPFS);
  return absl::OkStatus();
}

absl::Status Cri::UpdateRuntimeConfig(const api::UpdateRuntimeConfigRequest& request,
                                      api::UpdateRuntimeConfigResponse*) {
  const std::string& cidr = request.runtime_config().network_config().pod_cidr();
  if (cidr.empty()) return absl::OkStatus();
  return runtime_->network().SetPodCidr(cidr);
}

}  // namespace sock::cri
