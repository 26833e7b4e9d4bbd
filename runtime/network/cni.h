// Runs network plugins as the CNI specification (containernetworking/cni SPEC.md 1.1) says. Versions 0.1.0 to
// 1.1.0 of configurations and results.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <semaphore>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"
#include "runtime/network/pod_network.h"

namespace sock::runtime {

// A network configuration: of a .conflist as it is, of a single plugin's .conf as a list of one.
struct CniConfig {
  std::string name, version, file;
  bool disable_check = false;
  std::vector<std::string> plugins;  // each plugin's configuration, JSON text
};

// INVALID_ARGUMENT naming the field. `file` is for messages and decides by its extension.
absl::StatusOr<CniConfig> ParseCniConfig(const std::string& text, const std::string& file);

// The addresses and DNS settings of a plugin's result (its JSON text).
absl::StatusOr<PodNetworkResult> ParseCniResult(const std::string& text);

class Cni {
 public:
  explicit Cni(PodNetworkOptions options);

  // The first good configuration of the directory in lexical order, read again when a file changed; null
  // where there is none. An error where there are files and none is good.
  absl::StatusOr<std::shared_ptr<const CniConfig>> Load();
  // UNAVAILABLE naming a plugin that is in none of the binary directories.
  absl::Status CheckPlugins(const CniConfig& config);

  // ADD of every plugin in order; after a failure DEL of those that ran, in reverse. `netns` is also where
  // the loopback interface is set up. The result's state carries all that Del needs.
  absl::StatusOr<PodNetworkResult> Add(const CniConfig& config, const PodNetworkRequest& request, int netns);
  // DEL of every plugin in reverse, with the configuration of the ADD.
  absl::Status Del(const PodNetworkRequest& request, const std::string& state);
  // Whether the configuration that made this state may be checked: cniVersion 0.4.0 and later, and not with
  // disableCheck.
  static bool CanCheck(const std::string& state);
  // CHECK of every plugin in order, with the result of the ADD, up to the first that fails. Ends at once,
  // with what runs, when the descriptor `stop` is readable. It waits for no other plugin, nor do others for
  // it.
  absl::Status Check(const PodNetworkRequest& request, const std::string& state, int stop);

  // Every attachment is noted in cni_cache_dir from before its ADD until its DEL succeeded: what plugins keep
  // on disk (leases) outlives the sandboxes' records at a reboot. RemoveOrphans calls DEL for those noted and
  // not adopted; one that fails stays for the next time.
  void Adopt(const std::string& sandbox_id);
  absl::Status RemoveOrphans();

  void SetPodCidr(const std::string& cidr);  // the ipRanges capability

 private:
  struct Call {
    std::string command, netns;  // ADD, DEL, CHECK; CNI_NETNS
    const PodNetworkRequest* request;
    std::string previous;  // prevResult, JSON text or empty
    std::string cidr;
    int stop = -1;  // CHECK: a descriptor
  };
  absl::StatusOr<std::string> FindPlugin(const std::string& type);
  // One plugin; its result's text.
  absl::StatusOr<std::string> Run(const CniConfig& config, const std::string& plugin, const Call& call);
  absl::StatusOr<std::string> Spawn(const std::string& path, const std::string& input,
                                    std::vector<std::string> environment, int stop);
  absl::Status DelFrom(const CniConfig& config, size_t count, const Call& call);
  std::string NoteFile(const std::string& sandbox_id) const;
  absl::Status Note(const PodNetworkRequest& request, const std::string& state);
  void Unnote(const std::string& sandbox_id);

  const PodNetworkOptions options_;
  std::counting_semaphore<> running_;
  std::mutex mutex_;  // guards what follows
  std::string signature_, cidr_;
  std::set<std::string> adopted_;
  absl::StatusOr<std::shared_ptr<const CniConfig>> loaded_;
};

}  // namespace sock::runtime
