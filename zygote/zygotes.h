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
#include "zygote/learning.h"
#include "zygote/program.h"

namespace sock::zygote {

struct ZygotesOptions {
  std::string state_file;  // which host user belongs to which key; kept until the next boot
  std::string kinds_file;  // what Zygotes and kinds of pods there were, for the daemon's next start
  std::string cgroup_parent = "/cri-sock-zygotes";  // of the Zygotes' own cgroups
  int parked = 8, parked_most = 16;                 // sandboxes kept ready of each Zygote that is in use
  std::chrono::seconds idle{300};                   // not asked for so long: none kept ready, and frozen
  std::chrono::seconds rotate_age{12 * 3600};       // how old one becomes; 0: no limit
  uint64_t rotate_forks = 10000;                    // and of how many processes; 0: no limit
  int64_t memory_limit = 2ll << 30;                 // bytes, of one Zygote
  uint64_t memory_budget = 4ull << 30;  // bytes, of all, and what containers keep of those that were ended
  std::chrono::milliseconds import_limit{60000};
  bool learn = true;  // what no annotation or label asks for, an earlier run shows
};

// What is known of a container when it is made.
struct Wanted {
  oci::Image image;
  oci::ZygoteRequest request;
  std::vector<std::string> args, env;  // as execve(2) would get them
  std::string cwd;
  std::vector<std::string> volumes;  // where what is not of the image lies
  bool terminal = false;
  std::shared_ptr<const oci::Seccomp> default_seccomp;  // RuntimeDefault's: the Zygote gets it too
  std::vector<std::string> capabilities;                // that the profile was made for
  std::string trust_domain;                             // of whoever may share a Zygote
  uint32_t sandbox_owner = 0;                           // SandboxInfo::owner_uid
  std::string unforkable;          // why its pod's containers never fork; empty: they may
  std::vector<std::string> kinds;  // of its pod, the narrowest first: Predict
  std::string sandbox;             // the id of its own pod
};

struct Choice {
  std::optional<runtime::ForkRequest> fork;
  std::string key;     // of the Zygote that would serve it; empty: none could
  std::string reason;  // why not `fork`, in plain words
  std::string code;    // the same in a word, one of few
  std::string learn;   // as what it is to be remembered which modules it imports: Watch; empty: it is not
};

struct ZygoteStatus {
  std::string key, id, image, state;  // "making", "ready", "unforkable", "ended"
  std::string reason;                 // of what is not ready
  std::string last_miss;              // why the last start was not forked that was not
  std::vector<std::string> modules;
  bool learnt = false;  // they are what an earlier run imported
  std::string trust_domain;
  uint32_t uid = 0;
  uint64_t hits = 0, misses = 0;
  uint64_t predicted = 0, predicted_hits = 0,
           predicted_misses = 0;         // sandboxes: made for it, asked for it, ended without
  uint64_t start_ms = 0, import_ms = 0;  // the interpreter's own start; what it imported
  uint64_t saved_ms = 0;                 // both, once for each hit
  uint64_t forks = 0;                    // since it was made
  uint64_t memory_bytes = 0;             // its cgroup's: also files, and what is parked
  runtime::MemoryUse memory;             // its own and of what is parked
  uint64_t parked = 0;                   // that wait in no pod
  bool frozen = false;
  uint64_t containers = 0;               // forked from it or one before it, and alive
  runtime::MemoryUse containers_memory;  // theirs, when they were last looked at
  std::chrono::system_clock::time_point made_at;
};

struct ZygotesStatus {
  std::vector<ZygoteStatus> zygotes;
  std::map<std::string, uint64_t> misses;  // by Choice::code
  uint64_t retained_bytes = 0;             // what containers hold of Zygotes that were ended
  uint64_t memory_budget = 0;
};

// A count that halves in a given time.
class Decaying {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit Decaying(std::chrono::duration<double> half) : half_(half) {}
  void Add(Time now) {
    count_ = At(now) + 1;
    at_ = now;
  }
  double At(Time now) const;

 private:
  std::chrono::duration<double> half_;
  double count_ = 0;
  Time at_;
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
  // How the start of `container` went that Choose answered with `fork`. `reason`: why it was not forked, or
  // empty.
  void Tell(const Choice& choice, const std::string& container, const std::string& reason);
  // Looks which modules the container imports that Choose had `learn` for; `pid` waits at its barrier still.
  void Watch(const Choice& choice, const std::string& container, pid_t pid);
  // A living container that was forked while another daemon ran.
  void Adopt(const std::string& key, const std::string& container);
  // The Zygote whose like served the last pod of the first of these kinds that is known, for the sandbox that
  // is being made; empty: none. Of a pod whose containers want several, the one that saved most.
  std::string Predict(const std::vector<std::string>& kinds, const std::string& sandbox);
  // Of a sandbox that Predict was asked for: whether it was foretold rightly is known.
  void OnSandboxEnd(const std::string& sandbox);
  // A process of that id has ended. True if it was a Zygote.
  bool OnExit(const std::string& id);
  // Looks at the memory of each Zygote: about a millisecond for each.
  ZygotesStatus List();

 private:
  struct Entry {
    ZygoteStatus status;
    Wanted wanted;
    Program program;
    std::vector<std::string> env;
    std::string learnt;  // key in learned_ of what it imports; empty: it was asked for
    std::chrono::steady_clock::time_point used, retry_at;
    int failures = 0;  // of forks, and ends by itself, since the last fork that went well
    Decaying uses{std::chrono::minutes(10)};   // containers that asked for it
    Decaying recent{std::chrono::minutes(1)};  // pods of its kind
    int kept = 0;                              // sandboxes that are kept ready
    bool rotating = false;                     // another is being made in its place
    std::chrono::steady_clock::time_point rotate_at;
  };
  using EntryPtr = std::shared_ptr<Entry>;
  struct Prediction {
    std::string key, sandbox;  // `sandbox`: of the pod that it was learnt from
    int strangers = 0;         // containers in a row, each with a key that none had before
  };

  static std::string KeyOf(const Wanted& wanted, const Program& program, const std::vector<std::string>& env);
  absl::StatusOr<Program> ProgramOf(const Wanted& wanted);
  absl::StatusOr<uint32_t> UidOf(const std::string& key);
  // With mutex_ held.
  Prediction& KindOf(const std::string& kind);
  void Learn(const Wanted& wanted, const Entry& entry);
  std::string Strange(const Wanted& wanted, const std::string& key, const std::vector<std::string>& env);
  void Fail(Entry& entry, const std::string& reason);
  std::deque<std::string>::iterator NextKey();
  int Wished(const Entry& entry, std::chrono::steady_clock::time_point now) const;
  uint64_t Retained();
  ZygotesStatus Snapshot();

  void Keep(const EntryPtr& entry);
  void Work();
  absl::StatusOr<Fields> Ask(const std::string& id, const Fields& request, std::chrono::milliseconds limit);
  void MakeOne(const std::string& key, const EntryPtr& entry);
  void Upkeep();
  void LookAtContainers();
  void LookAtImports();
  void Remember();
  void Recall();
  absl::Status Make(Entry& entry, const std::string& id);
  absl::StatusOr<std::vector<std::string>> ModulesOf(const Entry& entry, const std::string& id);
  void End(const std::string& id);
  // Ends those whose memory is dearest for the time they save, until the budget holds.
  void Evict();

  const ZygotesOptions options_;
  runtime::Runtime* const runtime_;
  oci::ImageStore* const images_;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool closing_ = false;
  std::map<std::string, EntryPtr> entries_;        // by key
  std::map<std::string, std::string> by_id_;       // Zygote to key
  std::map<std::string, Prediction> predictions_;  // by kind of pod
  struct Foretold {
    std::string key;
    std::chrono::steady_clock::time_point at;
    bool parked = true;
  };
  std::map<std::string, Foretold> predicted_;  // by sandbox, while no container took it up
  struct Child {
    std::string key, zygote;  // of what it was forked
    runtime::MemoryUse memory;
    uint64_t charged = 0;  // bytes, to its own cgroup
    std::chrono::steady_clock::time_point looked, due;
  };
  std::map<std::string, Child> children_;  // by container
  struct Gone {
    uint64_t bytes = 0;  // what its cgroup held at its end
    std::chrono::steady_clock::time_point at;
  };
  std::map<std::string, Gone> gone_;        // Zygotes that were ended while children of theirs lived
  std::map<std::string, uint64_t> misses_;  // by Choice::code
  // What programs of an image imported, by image, program and trust domain.
  struct Learned {
    std::vector<std::string> modules;
    bool unforkable = false;  // with these loaded it can't be forked
  };
  std::map<std::string, Learned> learned_;
  struct Watched {
    std::string key;  // in learned_
    std::shared_ptr<OpenWatch> opens;
    std::chrono::steady_clock::time_point until;
  };
  std::map<std::string, Watched> watched_;  // by container
  std::mutex watch_mutex_;                  // held by whoever drains
  std::vector<std::pair<std::chrono::steady_clock::time_point, std::string>> retiring_;  // rotated ones
  std::mutex upkeep_mutex_;  // guards remembered_, and lets one at a time weigh memory
  std::string remembered_;   // what stands in kinds_file
  std::chrono::steady_clock::time_point next_upkeep_ = std::chrono::steady_clock::now();
  std::map<std::string, absl::StatusOr<Program>> programs_;  // by image and command line
  std::map<std::string, uint32_t> uids_;                     // by key
  std::deque<std::string> queue_;                            // keys to be made
  std::deque<std::string> ended_;                            // ids of Zygotes to be cleared away
  std::set<std::string> making_for_;                         // trust domains
  std::vector<std::thread> makers_;
};

}  // namespace sock::zygote
