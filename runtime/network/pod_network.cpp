#include "runtime/network/pod_network.h"

#include <nlohmann/json.hpp>

#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/network/bridge_network.h"
#include "runtime/network/checks.h"
#include "runtime/network/cni.h"

namespace sock::runtime {
namespace {

constexpr size_t kParallelChecks = 2;  // beside what plugins do for pods that come and go

// Which of the two made a sandbox's network.
absl::StatusOr<bool> MadeByCni(const std::string& state) {
  nlohmann::json parsed = nlohmann::json::parse(state, nullptr, false);
  if (parsed.is_object() && parsed.contains("kind")) {
    if (parsed["kind"] == "cni") return true;
    if (parsed["kind"] == "bridge") return false;
  }
  return absl::InvalidArgumentError("the record of a pod's network is damaged");
}

// CNI while a configuration stands in its directory, else the bridge; seen anew at each call.
class ChosenNetwork final : public PodNetwork {
 public:
  ChosenNetwork(std::unique_ptr<BridgeNetwork> bridge, const PodNetworkOptions& options)
      : bridge_(std::move(bridge)),
        cni_(std::make_unique<Cni>(options)),
        checks_(
            kParallelChecks,
            [this](const PodNetworkRequest& request, const std::string& state, int stop) {
              return cni_->Check(request, state, stop);
            },
            options.on_check) {}

  absl::Status Ready() override {
    ASSIGN_OR_RETURN(auto config, Config());
    return config == nullptr ? bridge_->Ready() : cni_->CheckPlugins(*config);
  }

  std::string Describe() override {
    auto config = Config();
    if (!config.ok()) return Cat("cni, broken: ", config.status().message());
    if (*config != nullptr) return Cat("cni ", (*config)->name, " from ", (*config)->file);
    return bridge_->Describe();
  }

  absl::StatusOr<std::string> Prepare(int netns) override {
    ASSIGN_OR_RETURN(auto config, Config());
    if (config != nullptr) return std::string();
    return bridge_->Prepare(netns);
  }

  bool NeedsPath() override {
    auto config = Config();
    return !config.ok() || *config != nullptr;
  }

  void Unprepare(const std::string& token) override {
    if (!token.empty()) bridge_->Unprepare(token);
  }

  absl::StatusOr<PodNetworkResult> Attach(const PodNetworkRequest& request, int netns,
                                          const std::string& token) override {
    auto config = Config();
    if (!config.ok() || *config != nullptr) Unprepare(token);  // the configuration came after the preparation
    RETURN_IF_ERROR(config.status());
    if (*config == nullptr) return bridge_->Attach(request, netns, token);
    ASSIGN_OR_RETURN(PodNetworkResult result, cni_->Add(**config, request, netns));
    if (Cni::CanCheck(result.state)) checks_.Add(request, result.state);
    return result;
  }

  absl::Status Detach(const PodNetworkRequest& request, const std::string& state) override {
    if (state.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(bool by_cni, MadeByCni(state));
    if (!by_cni) return bridge_->Detach(state);
    checks_.Drop(request.sandbox_id);  // plugins are asked one thing at a time of one pod
    return cni_->Del(request, state);
  }

  absl::Status Adopt(const PodNetworkRequest& request, const std::string& state) override {
    if (state.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(bool by_cni, MadeByCni(state));
    if (!by_cni) return bridge_->Adopt(state);
    cni_->Adopt(request.sandbox_id);
    if (Cni::CanCheck(state)) checks_.Add(request, state);
    return absl::OkStatus();
  }

  absl::Status RemoveOrphans() override {
    RETURN_IF_ERROR(cni_->RemoveOrphans());
    checks_.AskAll();
    return bridge_->RemoveOrphans();
  }

  absl::Status SetPodCidr(const std::string& cidr) override {
    RETURN_IF_ERROR(bridge_->SetPodCidr(cidr));
    cni_->SetPodCidr(cidr);
    return absl::OkStatus();
  }

  std::optional<NetworkCheck> Check(const std::string& sandbox_id,
                                    std::chrono::milliseconds patience) override {
    return checks_.Ask(sandbox_id, patience);
  }
  NetworkCheckCounts CountChecks() const override { return checks_.Count(); }

 private:
  absl::StatusOr<std::shared_ptr<const CniConfig>> Config() {
    auto config = cni_->Load();
    if (!config.ok()) return WithCode(config.status(), absl::StatusCode::kUnavailable);
    return config;
  }

  std::unique_ptr<BridgeNetwork> bridge_;
  std::unique_ptr<Cni> cni_;
  NetworkChecks checks_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PodNetwork>> PodNetwork::Open(PodNetworkOptions options) {
  ASSIGN_OR_RETURN(auto bridge, BridgeNetwork::Open(options.bridge, options.subnet));
  return std::make_unique<ChosenNetwork>(std::move(bridge), options);
}

}  // namespace sock::runtime
