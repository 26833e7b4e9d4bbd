// The daemon's configuration: a TOML file over embedded defaults. An unknown key is an error.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sock::cri {

struct Config {
  std::vector<std::string> handlers{"", "sock"};  // names of RuntimeClass handlers that are served
  std::string certs_dir = "/etc/cri-sock/certs.d";
  std::string cgroup_driver = "cgroupfs";  // or "systemd"
  std::string seccomp_profile_root = "/var/lib/kubelet/seccomp";
  int spare_sandboxes = 8;
  int parked = 4;           // sandboxes with a process parked that are kept ready of each Zygote in use
  int parked_most = 16;     // and of one that many ask for
  int import_seconds = 60;  // that a Zygote has for its imports
  int zygote_mib = 2048;    // of memory, at most, in one Zygote
  int zygote_idle_s = 300, rotate_s = 43200, rotate_forks = 10000, zygote_memory_mib = 4096;
  bool learn = true;  // sets that nobody asked for from what earlier runs imported
  std::map<std::string, std::vector<std::string>> trust_domains;  // by name, the namespaces that may join
  std::string zygote_cgroup = "/cri-sock-zygotes";
  std::string metrics_listen;  // MetricsServer::Start; empty: no metrics are served
  int parallel_downloads = 3;
  std::string cni_conf_dir = "/etc/cni/net.d";
  std::vector<std::string> cni_bin_dirs{"/opt/cni/bin", "/usr/lib/cni"};
  std::string bridge = "cri-sock0", subnet = "10.88.0.0/16";
  bool operator==(const Config&) const = default;
};

// Reads `path`. A missing file is the defaults. INVALID_ARGUMENT names the key and the line.
absl::StatusOr<Config> LoadConfig(const std::string& path);
absl::StatusOr<Config> ParseConfig(const std::string& text);

// Who shares Zygotes with a pod of the Kubernetes namespace `name`: those of that namespace or, where the pod
// asks for a domain, the pods that ask for the same; no domain is taken for a namespace. PERMISSION_DENIED
// where the configuration does not let the namespace join; `source` names what asked.
absl::StatusOr<std::string> TrustDomain(const Config& config, const std::string& name,
                                        const std::optional<std::string>& domain, const std::string& source);

}  // namespace sock::cri
