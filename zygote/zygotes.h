// Which containers are forked from which Zygote. A Zygote is an interpreter of one image with one set of
// modules imported; it serves what asks for just that, of the same trust domain. Every method may be called
// from any thread; none waits for an import.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "oci/annotations.h"
#include "oci/image_store.h"
#include "oci/runtime_spec.h"
#include "runtime/runtime.h"
#include "zygote/program.h"

namespace sock::zygote {

struct ZygotesOptions {
  std::string state_file;  // which host user belongs to which key; kept until the next boot
  std::string cgroup_parent = "/cri-sock-zygotes";  // of the Zygotes' own cgroups
  int parked = 8;                                   // sandboxes kept ready of each Zygote
  int64_t memory_limit = 2ll << 30;                 // bytes, of one Zygote
  uint64_t memory_budget = 4ull << 30;              // bytes, of all: the one used least is ended
  std::chrono::milliseconds import_limit{60000};
};

// What is known of a container when it is made.
struct Wanted {
  oci::Image image;
  oci::ZygoteRequest request;
  std::vector<std::string> args, env;  // as execve(2) would get them
  std::string cwd;
  std::vector<std::string> volumes;  // where what is not of the image lies
  bool terminal = false;
  std::optional<oci::Seccomp> default_seccomp;  // where the profile is RuntimeDefault: the Zygote gets it too
  std::string trust_domain;                     // of whoever may share a Zygote
  uint32_t sandbox_owner = 0;                   // SandboxInfo::owner_uid
  std::string unforkable;                       // why its pod's containers never fork; empty: they may
  std::string pod;                              // what such pods have in common: Predict
  std::string sandbox;                          // the id of its own pod
};

struct Choice {
  std::optional<runtime::ForkRequest> fork;
  std::string key;     // of the Zygote that would serve it; empty: none could
  std::string reason;  // why not `fork`, in plain words
};

struct ZygoteStatus {
  std::string key, id, image, state;  // "making", "ready", "unforkable", "ended"
  std::string reason;                 // of what is not ready; of the last start that missed
  std::vector<std::string> modules;
  std::string trust_domain;
  uint32_t uid = 0;
  uint64_t hits = 0, misses = 0;
  uint64_t predicted = 0, predicted_hits = 0,
           predicted_misses = 0;  // sandboxes: made for it, asked for it, ended without
  uint64_t import_ms = 0, memory_bytes = 0;
  std::chrono::system_clock::time_point made_at;
};

class Zygotes {
 public:
  // Neither `runtime` nor `images` is owned; both outlive it.
  Zygotes(ZygotesOptions options, runtime::Runtime* runtime, oci::ImageStore* images);
  // Ends every Zygote; what was forked from them goes on.
  ~Zygotes();

  // For one container. Where no Zygote is there that would serve it, one is made for the next, behind the
  // call. INVALID_ARGUMENT for a request that can't be read.
  absl::StatusOr<Choice> Choose(const Wanted& wanted);
  // How the start went that Choose answered with `fork`. `reason`: why it was not forked, or empty.
  void Tell(const std::string& key, const std::string& reason);
  // The Zygote whose like served the last such pod, for the sandbox that is being made; empty: none. Of a pod
  // whose containers want several, the one that saved most.
  std::string Predict(const std::string& pod, const std::string& sandbox);
  // Of a sandbox that Predict was asked for: whether it was foretold rightly is known.
  void OnSandboxEnd(const std::string& sandbox);
  // A process of that id has ended. True if it was a Zygote.
  bool OnExit(const std::string& id);
  std::vector<ZygoteStatus> List();

 private:
  struct Entry {
    ZygoteStatus status;
    Wanted wanted;
    Program program;
    std::vector<std::string> env;
    std::chrono::steady_clock::time_point used, retry_at;
    int failures = 0;  // of forks, and ends by itself, since the last fork that went well
  };
  using EntryPtr = std::shared_ptr<Entry>;

  absl::StatusOr<Program> ProgramOf(const Wanted& wanted);
  absl::StatusOr<uint32_t> UidOf(const std::string& key);
  void Learn(const Wanted& wanted, const Entry& entry);
  void Fail(Entry& entry, const std::string& reason);
  std::deque<std::string>::iterator NextKey();
  void Work();
  absl::StatusOr<Fields> Ask(const std::string& id, const Fields& request, std::chrono::milliseconds limit);
  absl::Status Make(Entry& entry, const std::string& id);
  absl::StatusOr<std::vector<std::string>> ModulesOf(const Entry& entry, const std::string& id);
  void End(const std::string& id);
  void Evict();

  const ZygotesOptions options_;
  runtime::Runtime* const runtime_;
  oci::ImageStore* const images_;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool closing_ = false;
  std::map<std::string, EntryPtr> entries_;                  // by key
  std::map<std::string, std::string> by_id_;                 // Zygote to key
  struct Prediction {
    std::string key, sandbox;  // `sandbox`: of the pod that it was learnt from
  };
  std::map<std::string, Prediction> predictions_;            // by kind of pod
  std::map<std::string, std::string> predicted_;             // sandbox to key, while no container took it up
  std::map<std::string, absl::StatusOr<Program>> programs_;  // by image and command line
  std::map<std::string, uint32_t> uids_;                     // by key
  std::deque<std::string> queue_;                            // keys to be made
  std::deque<std::string> ended_;                            // ids of Zygotes to be cleared away
  std::set<std::string> making_for_;                         // trust domains
  std::vector<std::thread> makers_;
};

}  // namespace sock::zygote
