// What is done for Zygotes by and by: memory, age, how many processes are parked, what is remembered.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "zygote/zygotes.h"

namespace sock::zygote {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kLook{60};     // between two looks at a container's memory
constexpr int kLookShare = 200;               // and at most this part of the time
constexpr std::chrono::seconds kUntaken{60};  // how long a parked process waits in a pod
constexpr std::chrono::seconds kEvicted{60};  // before one that was ended for want of memory is made again
constexpr uint64_t kWorthwhile = 1 << 20;     // bytes: for less nobody is ended
constexpr std::chrono::seconds kWatch{15};  // within which a program has imported what it needs at its start
constexpr size_t kMaxWatches = 32;          // at a time
constexpr size_t kMaxLearned = 1024;

}  // namespace

double Decaying::At(Time now) const {
  return count_ == 0 ? 0 : count_ * std::exp2(-std::chrono::duration<double>(now - at_) / half_);
}

void Zygotes::Upkeep() {
  LookAtContainers();
  LookAtImports();
  struct Due {
    EntryPtr entry;
    std::string id;
    int kept;
  };
  std::vector<Due> resized, idle;
  std::vector<std::string> untaken;
  {
    std::lock_guard lock(mutex_);
    const auto now = steady_clock::now();
    for (const auto& [key, entry] : entries_) {
      if (entry->status.state != "ready") continue;
      const bool old = entry->rotate_at != steady_clock::time_point() && now >= entry->rotate_at;
      const bool spent = options_.rotate_forks > 0 && entry->status.forks >= options_.rotate_forks;
      const int wished = Wished(*entry, now);
      // One that nobody asks for is not made anew: it ends, and the next asker has a fresh one made.
      if (old && wished == 0) {
        entry->status.state = "ended";
        entry->status.reason = "it had grown old and was not asked for";
        ended_.push_back(std::exchange(entry->status.id, ""));
        continue;
      }
      if ((old || (spent && now >= entry->retry_at)) && !entry->rotating) {
        entry->rotating = true;
        queue_.push_back(key);
      }
      if (wished != entry->kept) {
        entry->kept = wished;
        resized.push_back({entry, entry->status.id, wished});
      } else if (wished == 0) {
        idle.push_back({entry, entry->status.id, 0});
      }
    }
    for (auto& [sandbox, foretold] : predicted_)
      if (foretold.parked && now - foretold.at > kUntaken) {
        foretold.parked = false;
        untaken.push_back(sandbox);
      }
    std::erase_if(retiring_, [&](const auto& one) {
      if (one.first > now) return false;
      ended_.push_back(one.second);
      return true;
    });
  }
  for (const Due& one : resized) runtime_->ResizeParked(one.id, one.kept);
  for (const std::string& sandbox : untaken) runtime_->Unpark(sandbox);
  for (const Due& one : idle) {
    if (runtime_->CountParked(one.id) > 0) continue;  // they are being taken down
    const bool frozen = runtime_->FreezeZygote(one.id).ok();
    std::lock_guard lock(mutex_);
    if (one.entry->status.id == one.id && one.entry->kept == 0) one.entry->status.frozen = frozen;
  }
  Evict();
  Remember();
}

void Zygotes::LookAtContainers() {
  std::vector<std::string> due;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [container, child] : children_)
      if (steady_clock::now() >= child.due) due.push_back(container);
  }
  for (const std::string& container : due) {
    const auto begin = steady_clock::now();
    absl::StatusOr<runtime::MemoryUse> memory = runtime_->Memory(container);
    absl::StatusOr<runtime::CgroupStats> charged = runtime_->Stats(container);
    const auto now = steady_clock::now();
    std::lock_guard lock(mutex_);
    auto child = children_.find(container);
    if (child == children_.end()) continue;
    if (!memory.ok() || memory->processes == 0) {
      children_.erase(child);
      continue;
    }
    child->second.memory = *memory;
    child->second.charged = charged.ok() ? charged->memory_usage : 0;
    child->second.looked = begin;
    child->second.due = now + std::max<steady_clock::duration>(kLook, (now - begin) * kLookShare);
  }
}

void Zygotes::Watch(const Choice& choice, const std::string& container, pid_t pid) {
  {
    std::lock_guard lock(mutex_);
    if (choice.learn.empty() || watched_.size() >= kMaxWatches || learned_.size() >= kMaxLearned) return;
    for (const auto& [other, watched] : watched_)
      if (watched.key == choice.learn) return;
  }
  absl::StatusOr<OpenWatch> opens = OpenWatch::Open(pid);
  if (!opens.ok()) {
    spdlog::debug("what container {} imports is not seen: {}", container,
                  std::string(opens.status().message()));
    return;
  }
  std::lock_guard lock(mutex_);
  watched_[container] = {choice.learn, std::make_shared<OpenWatch>(*std::move(opens)),
                         steady_clock::now() + kWatch};
}

void Zygotes::LookAtImports() {
  std::lock_guard one(watch_mutex_);
  std::map<std::string, Watched> all;
  {
    std::lock_guard lock(mutex_);
    all = watched_;
  }
  for (auto& [container, watched] : all) {
    watched.opens->Drain();
    if (steady_clock::now() < watched.until) continue;
    const runtime::ContainerState state = runtime_->State(container);
    std::lock_guard lock(mutex_);
    if (state.state == runtime::ProcessState::kCreated) {
      watched_[container].until = steady_clock::now() + kWatch;
      continue;
    }
    watched_.erase(container);
    // One that failed may not have come to its imports; the next run shows them.
    if (state.state == runtime::ProcessState::kGone || (state.exit && state.exit->exit_code != 0)) continue;
    learned_[watched.key] = {watched.opens->modules()};
    spdlog::info("container {} imported {} modules: the next of its kind has them loaded", container,
                 watched.opens->modules().size());
  }
}

// Of Zygotes that are gone, what their containers hold: what was theirs, until these have been looked at
// since.
uint64_t Zygotes::Retained() {
  uint64_t bytes = 0;
  std::map<std::string, bool> looked;  // by Zygote
  std::map<std::string, uint64_t> shared, heap;
  for (const auto& [container, child] : children_) {
    if (by_id_.contains(child.zygote)) continue;
    auto gone = gone_.find(child.zygote);
    const bool since = gone == gone_.end() || child.looked > gone->second.at;
    looked[child.zygote] = since && looked.try_emplace(child.zygote, true).first->second;
    // What it has and is not charged for, another cgroup was.
    shared[child.zygote] +=
        child.memory.proportional_bytes - std::min(child.memory.proportional_bytes, child.charged);
    // The container may have mapped a file of its own by that name: no Zygote's heap is beyond its limit.
    heap[child.zygote] = std::max(heap[child.zygote], std::min(child.memory.zygote_heap_bytes,
                                                               static_cast<uint64_t>(options_.memory_limit)));
  }
  std::erase_if(gone_,
                [&](const auto& one) { return !by_id_.contains(one.first) && !looked.contains(one.first); });
  for (const auto& [zygote, whole] : looked)
    bytes += whole ? shared[zygote] + heap[zygote] : gone_[zygote].bytes;
  return bytes;
}

void Zygotes::Evict() {
  std::lock_guard one(upkeep_mutex_);
  ZygotesStatus all;
  {
    std::lock_guard lock(mutex_);
    all = Snapshot();
  }
  uint64_t bytes = all.retained_bytes;
  for (ZygoteStatus& status : all.zygotes) {
    if (status.id.empty()) continue;
    if (auto stats = runtime_->Stats(status.id); stats.ok()) status.memory_bytes = stats->memory_usage;
    bytes += status.memory_bytes;
  }
  while (bytes > options_.memory_budget) {
    std::map<std::string, uint64_t> freed;  // by Zygote: what its end gives back
    for (const ZygoteStatus& status : all.zygotes) {
      if (status.id.empty()) continue;
      uint64_t& one = freed[status.id] = status.memory_bytes;
      // What its containers have of it stays until the last of them ends.
      if (status.containers > 0)
        one = runtime_->Memory(status.id).value_or(runtime::MemoryUse()).private_bytes;
    }
    std::lock_guard lock(mutex_);
    const auto now = steady_clock::now();
    EntryPtr worst;
    double worst_worth = 0;
    for (const auto& [key, entry] : entries_) {
      const ZygoteStatus& status = entry->status;
      if (status.state != "ready" || !freed.contains(status.id) || freed[status.id] < kWorthwhile) continue;
      const double worth = static_cast<double>(status.start_ms + status.import_ms + 1) * entry->uses.At(now) /
                           static_cast<double>(freed[status.id]);
      if (worst && worth >= worst_worth) continue;
      worst = entry;
      worst_worth = worth;
    }
    if (!worst) return;  // what is left is held by containers
    const std::string id = std::exchange(worst->status.id, "");
    bytes -= std::min(bytes, freed[id]);
    for (ZygoteStatus& status : all.zygotes)
      if (status.id == id) {
        if (status.containers > 0) gone_[id] = {status.memory_bytes, now};
        status.id.clear();
      }
    for (auto& [container, child] : children_)
      if (child.zygote == id) child.due = now;
    worst->status.state = "ended";
    worst->status.reason = "it was ended for want of memory";
    worst->retry_at = now + kEvicted;
    worst->kept = 0;
    ended_.push_back(id);
    wake_.notify_all();
    spdlog::info("Zygote {} of {} ends for want of memory", id, worst->status.image);
  }
}

}  // namespace sock::zygote
