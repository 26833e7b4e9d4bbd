#include <absl/cleanup/cleanup.h>
#include <google/protobuf/util/message_differencer.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "cri/convert.h"
#include "cri/cri.h"
#include "runtime/base/atomic_file.h"
#include "runtime/base/ids.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

using namespace std::string_literals;

template <typename Words>
std::string Join(const Words& words) {
  std::string text;
  for (const auto& word : words) text += Cat(text.empty() ? "" : " ", word);
  return text;
}

// resolv.conf(5).
template <typename Words>
std::string ResolvConf(const Words& servers, const Words& searches, const Words& options) {
  std::string text;
  if (!searches.empty()) text += Cat("search ", Join(searches), "\n");
  for (const auto& server : servers) text += Cat("nameserver ", server, "\n");
  if (!options.empty()) text += Cat("options ", Join(options), "\n");
  return text;
}

bool HostNetwork(const api::PodSandboxConfig& config) {
  return config.linux().security_context().namespace_options().network() == api::NODE;
}

absl::Status CheckConfig(const api::PodSandboxConfig& config) {
  const auto& metadata = config.metadata();
  if (metadata.name().empty()) return absl::InvalidArgumentError("config.metadata.name is empty");
  if (metadata.namespace_().empty()) return absl::InvalidArgumentError("config.metadata.namespace is empty");
  if (config.hostname().size() > 64) {
    return absl::InvalidArgumentError(Cat("config.hostname `", config.hostname(), "` is over 64 bytes"));
  }
  for (const unsigned char c : config.hostname()) {
    if (!isalnum(c) && c != '-' && c != '.' && c != '_') {
      return absl::InvalidArgumentError("config.hostname is not of letters, digits, `-`, `.` and `_`");
    }
  }
  if (!config.log_directory().empty() && config.log_directory()[0] != '/') {
    return absl::InvalidArgumentError(
        Cat("config.log_directory `", config.log_directory(), "` is not absolute"));
  }
  // These become lines of files.
  for (const auto* words :
       {&config.dns_config().servers(), &config.dns_config().searches(), &config.dns_config().options()}) {
    for (const std::string& word : *words) {
      if (word.find_first_of("\n\r\0"s) != std::string::npos) {
        return absl::InvalidArgumentError("config.dns_config has a line break in a word");
      }
    }
  }
  return absl::OkStatus();
}

// A user namespace is no part of these, or would take from them what they were given.
std::string WhyNodeUsers(const sock::runtime::SandboxSpec& spec, const api::PodSandboxConfig& config) {
  if (config.linux().security_context().privileged()) return "it is privileged";
  if (spec.host_network) return "it is in the node's network";
  if (spec.host_pid) return "it is in the node's PID namespace";
  if (spec.host_ipc) return "it is in the node's IPC namespace";
  return "";
}

}  // namespace

std::vector<std::string> PodKinds(const api::PodSandboxConfig& config) {
  constexpr std::string_view kOfOnePod[] = {"statefulset.kubernetes.io/pod-name",
                                            "apps.kubernetes.io/pod-index",
                                            "batch.kubernetes.io/job-completion-index",
                                            "batch.kubernetes.io/controller-uid",
                                            "batch.kubernetes.io/job-name",
                                            "controller-uid",
                                            "job-name"};
  constexpr std::string_view kOfOneRevision[] = {"pod-template-hash",
                                                 "controller-revision-hash",
                                                 "pod-template-generation",
                                                 "kubectl.kubernetes.io/restartedAt",
                                                 "serving.knative.dev/revisionUID",
                                                 "serving.knative.dev/configurationGeneration"};
  auto among = [](const auto& keys, const std::string& key) {
    return std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
  };
  std::string revision;  // Knative names several labels after it
  if (auto found = config.labels().find("serving.knative.dev/revision"); found != config.labels().end())
    revision = found->second;
  std::map<std::string, std::string> one, any;
  for (const auto* pairs : {&config.labels(), &config.annotations()})
    for (const auto& [key, value] : *pairs) {
      if (key.starts_with("io.kubernetes.pod.") || key.starts_with("kubernetes.io/config.") ||
          among(kOfOnePod, key))
        continue;
      one[key] = value;
      if (!among(kOfOneRevision, key) && (revision.empty() || value != revision)) any[key] = value;
    }
  std::vector<std::string> kinds;
  for (const auto* kept : {&one, &any}) {
    std::string kind = config.metadata().namespace_();
    for (const auto& [key, value] : *kept) kind += Cat("\n", key, "=", value);
    if (kept == &one || any != one) kinds.push_back(std::move(kind));
  }
  return kinds;
}

absl::Status Cri::WriteSandboxFiles(const SandboxRecord& record) {
  const std::string dir = FilesDir(record.id);
  const auto& config = record.config;
  const auto& dns = config.dns_config();
  const auto& network = record.info.network;
  RETURN_IF_ERROR(MakeDirs(dir, 0711));

  std::string resolv;
  if (dns.servers_size() || dns.searches_size() || dns.options_size()) {
    resolv = ResolvConf(dns.servers(), dns.searches(), dns.options());
  } else if (!network.dns_servers.empty()) {
    resolv = ResolvConf(network.dns_servers, network.dns_searches, network.dns_options);
  } else if (auto host = ReadFile("/etc/resolv.conf", 1 << 20); host.ok()) {
    resolv = *host;
  }

  std::string hostname = config.hostname(), hosts;
  if (hostname.empty()) {
    char name[65] = {};
    if (gethostname(name, sizeof name - 1) == 0) hostname = name;
  }
  if (HostNetwork(config)) {
    if (auto host = ReadFile("/etc/hosts", 1 << 20); host.ok()) hosts = *host;
  } else {
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    for (const std::string& ip : network.ips) hosts += Cat(ip, "\t", hostname, "\n");
  }

  RETURN_IF_ERROR(WriteFileAtomic(dir + "/resolv.conf", resolv, Durability::kProcess, 0644));
  RETURN_IF_ERROR(WriteFileAtomic(dir + "/hosts", hosts, Durability::kProcess, 0644));
  RETURN_IF_ERROR(WriteFileAtomic(dir + "/hostname", hostname + "\n", Durability::kProcess, 0644));
  const api::PodSandboxConfig effective = record.EffectiveConfig();
  const auto& userns = effective.linux().security_context().namespace_options().userns_options();
  const uint32_t uid = RootId(userns.uids()), gid = RootId(userns.gids());
  for (const char* name : {"/resolv.conf", "/hosts", "/hostname"}) {
    if (chown((dir + name).c_str(), uid, gid) != 0) return ErrnoStatus(errno, Cat("chown `", dir, name, "`"));
  }
  return absl::OkStatus();
}

absl::Status Cri::RemoveSandboxFiles(const std::string& sandbox_id) {
  return RemoveTree(FilesDir(sandbox_id));
}

absl::Status Cri::RunPodSandbox(const api::RunPodSandboxRequest& request,
                                api::RunPodSandboxResponse* response) {
  if (std::find(config_.handlers.begin(), config_.handlers.end(), request.runtime_handler()) ==
      config_.handlers.end()) {
    return absl::InvalidArgumentError(
        Cat("runtime_handler `", request.runtime_handler(), "` is not configured"));
  }
  RETURN_IF_ERROR(CheckConfig(request.config()));

  SandboxRecord record;
  record.handler = request.runtime_handler();
  record.config = request.config();
  const std::string name = record.Name();
  if (std::string first = sandboxes_.Reserve(name); !first.empty()) {
    auto found = sandboxes_.Find(first);
    if (found.ok()) {
      auto known = (*found)->Get();
      if (known->state() == api::SANDBOX_READY && known->handler == record.handler &&
          google::protobuf::util::MessageDifferencer::Equals(known->config, record.config)) {
        response->set_pod_sandbox_id(first);
        return absl::OkStatus();
      }
    }
    return absl::AlreadyExistsError(Cat("sandbox `", name, "` exists already as `", first, "`"));
  }
  absl::Cleanup release = [&] { sandboxes_.Release(name); };

  record.id = NewId();
  ASSIGN_OR_RETURN(sock::runtime::SandboxSpec spec, ToSandboxSpec(record.id, record.config));
  if (record.handler == kSockHandler) {
    record.node_users = WhyNodeUsers(spec, record.config);
    spec.own_users = record.node_users.empty() && spec.uid_mappings.empty();
    if (zygote::Zygotes* zygotes = zygotes_; zygotes != nullptr && record.node_users.empty())
      spec.zygote_id = zygotes->Predict(PodKinds(record.config), record.id);
  }
  record.cgroup_parent = record.config.linux().cgroup_parent();
  if (record.cgroup_parent.empty()) record.cgroup_parent = "/cri-sock";
  // The directory that PathFor places containers in: expanded where the driver is systemd.
  std::string probe = runtime_->cgroups().PathFor(record.cgroup_parent, record.id);
  RETURN_IF_ERROR(runtime_->cgroups().EnsureParent(probe.substr(0, probe.rfind('/'))));

  ASSIGN_OR_RETURN(record.info, runtime_->CreateSandbox(spec));
  absl::Cleanup undo = [&] {
    if (zygote::Zygotes* zygotes = zygotes_; zygotes != nullptr) zygotes->OnSandboxEnd(record.id);
    RemoveSandboxFiles(record.id).IgnoreError();
    runtime_->StopSandbox(spec, record.info).IgnoreError();
    runtime_->RemoveSandbox(spec, record.info).IgnoreError();
  };
  RETURN_IF_ERROR(WriteSandboxFiles(record));
  record.created_at = NowNs();
  ASSIGN_OR_RETURN(SandboxPtr added, sandboxes_.Add(record));
  std::move(undo).Cancel();
  std::move(release).Cancel();
  response->set_pod_sandbox_id(added->id);
  Emit(api::CONTAINER_CREATED_EVENT, added->id, added->id);
  Emit(api::CONTAINER_STARTED_EVENT, added->id, added->id);
  return absl::OkStatus();
}

absl::Status Cri::UpdatePodSandboxResources(const api::UpdatePodSandboxResourcesRequest& request,
                                            api::UpdatePodSandboxResourcesResponse*) {
  ASSIGN_OR_RETURN(SandboxPtr sandbox, sandboxes_.Find(request.pod_sandbox_id()));
  RETURN_IF_ERROR(Annotate(ToResources(request.overhead()).status(), "overhead"));
  RETURN_IF_ERROR(Annotate(ToResources(request.resources()).status(), "resources"));
  return sandbox->Update([&](SandboxRecord& r) {
    api::LinuxPodSandboxConfig* kept = r.config.mutable_linux();
    if (request.has_overhead()) *kept->mutable_overhead() = request.overhead();
    if (request.has_resources()) *kept->mutable_resources() = request.resources();
  });
}

}  // namespace sock::cri
