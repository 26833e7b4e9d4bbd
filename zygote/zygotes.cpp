#include "zygote/zygotes.h"

#include <openssl/sha.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "oci/default_paths.h"
#include "runtime/base/atomic_file.h"
#include "runtime/base/ids.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/mounts.h"
#include "runtime/container/seccomp.h"
#include "runtime/container/seccomp_profile.h"
#include "zygote/helper.h"
#include "zygote/requirement.h"

namespace sock::zygote {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint32_t kFirstUid = 0x7f000000, kUids = 1 << 18;  // the file of all is read again: 12 MiB
constexpr milliseconds kAnswer{10000};
constexpr std::chrono::seconds kRetry{60};
constexpr int kMakers = 4;       // imports at a time, one of a trust domain
constexpr int kFailures = 3;     // in a row, until a Zygote is given up for a while
constexpr int kProcesses = 512;  // at most, of one Zygote: its own, and those on their way to a container
constexpr size_t kMaxRemembered = 4096;  // command lines, pods
constexpr int kMaxStrangers = 4;         // of a kind of pods, in a row: for the next no Zygote is made
// A Zygote that another one replaces ends so much later: sandboxes may be on their way to it.
constexpr std::chrono::seconds kRetire{5};

std::string Hash(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += Cat(part.size(), ":", part);
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), 16));
}

std::string Joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += Cat(word.size(), ":", word);
  return text;
}

bool Covers(std::string_view above, std::string_view path) {
  while (above.size() > 1 && above.ends_with('/')) above.remove_suffix(1);
  return above == "/" || path == above || (path.starts_with(above) && path[above.size()] == '/');
}

// The volume that hides or adds something where the interpreter looks for itself and for modules; empty:
// none.
std::string VolumeInTheWay(const Wanted& wanted, const std::string& interpreter) {
  const std::string bin = interpreter.substr(0, interpreter.rfind('/'));
  const std::string prefix = bin.substr(0, bin.rfind('/'));
  std::vector<std::string> places{interpreter, prefix + "/lib", prefix + "/lib64", prefix + "/pyvenv.cfg"};
  for (const std::string& variable : wanted.env)
    if (variable.starts_with("PYTHONPATH="))
      for (absl::string_view place : absl::StrSplit(variable.substr(11), ':', absl::SkipEmpty()))
        places.emplace_back(place);
  for (const std::string& volume : wanted.volumes)
    for (const std::string& place : places)
      if (Covers(volume, place) || Covers(place, volume)) return volume;
  return "";
}

// "NAME VERSION MODULE MODULE…", as a Zygote's helper tells.
std::vector<InstalledPackage> ParseInstalled(const std::vector<std::string>& lines) {
  std::vector<InstalledPackage> all;
  for (const std::string& line : lines) {
    std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() < 2) continue;
    all.push_back({words[0], words[1], {words.begin() + 2, words.end()}});
  }
  return all;
}

// What the parked process needs before the pod's own filter is put on, which denies it again.
oci::Seccomp BaseFilter(oci::Seccomp filter) {
  oci::SeccompSyscall own;
  own.names = {"setns", "unshare", "keyctl"};
  own.action = "SCMP_ACT_ALLOW";
  for (oci::SeccompSyscall& rule : filter.syscalls)
    std::erase_if(rule.names, [&](const std::string& name) {
      return std::find(own.names.begin(), own.names.end(), name) != own.names.end();
    });
  std::erase_if(filter.syscalls, [](const oci::SeccompSyscall& rule) { return rule.names.empty(); });
  filter.syscalls.push_back(std::move(own));
  return filter;
}

// Where the pod has another filter, or none. What io_uring(7) was given before the barrier, credentials and
// files, it would keep behind it, and nobody sees that from outside.
oci::Seccomp WithoutRings() {
  oci::SeccompSyscall rings;
  rings.names = {"io_uring_setup"};
  rings.action = "SCMP_ACT_ERRNO";
  rings.errno_ret = ENOSYS;
  oci::Seccomp filter;
  filter.default_action = "SCMP_ACT_ALLOW";
  filter.architectures = runtime::DefaultSeccompProfile({})->architectures;
  filter.syscalls.push_back(std::move(rings));
  return filter;
}

}  // namespace

std::string Zygotes::KeyOf(const Wanted& wanted, const Program& program,
                           const std::vector<std::string>& env) {
  return Hash({wanted.image.id, program.interpreter, Joined(program.options), Joined(env),
               wanted.request.packages.value_or(""), wanted.request.imports.value_or(""),
               wanted.default_seccomp ? runtime::Fingerprint(*wanted.default_seccomp) : "",
               wanted.trust_domain});
}

Zygotes::Zygotes(ZygotesOptions options, runtime::Runtime* runtime, oci::ImageStore* images)
    : options_(std::move(options)), runtime_(runtime), images_(images) {
  if (absl::StatusOr<std::string> text = ReadFile(options_.state_file, 16 << 20); text.ok()) {
    const nlohmann::json known = nlohmann::json::parse(*text, nullptr, false);
    if (known.is_object())
      for (const auto& [key, uid] : known.items())
        if (uid.is_number_unsigned()) uids_[key] = uid.get<uint32_t>();
  }
  Recall();
  for (int i = 0; i < kMakers; ++i) makers_.emplace_back([this] { Work(); });
}

Zygotes::~Zygotes() {
  std::vector<std::string> all;
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    for (const auto& [id, key] : by_id_) all.push_back(id);
  }
  wake_.notify_all();
  for (const std::string& id : all) runtime_->RemoveContainer(id).IgnoreError();  // no import is waited for
  for (std::thread& maker : makers_) maker.join();
  Remember();
  for (const auto& [id, key] : by_id_) End(id);
}

absl::StatusOr<Program> Zygotes::ProgramOf(const Wanted& wanted) {
  std::string path;
  for (const std::string& variable : wanted.env)
    if (variable.starts_with("PATH=")) path = variable;
  const std::string key = Hash({wanted.image.id, Joined(wanted.args), path, wanted.cwd});
  {
    std::lock_guard lock(mutex_);
    if (auto found = programs_.find(key); found != programs_.end()) return found->second;
  }
  // The image's own files: what a volume hides of them is not known here, and need not be.
  const std::string snapshot = NewId();
  ASSIGN_OR_RETURN(oci::Rootfs rootfs, images_->CreateSnapshot(snapshot, wanted.image.id, 0, 0));
  absl::Cleanup remove = [&] { images_->RemoveSnapshot(snapshot).IgnoreError(); };
  rootfs.upper_dir.clear();
  rootfs.work_dir.clear();
  ASSIGN_OR_RETURN(Fd root, runtime::MountRootfs(rootfs, -1));
  absl::StatusOr<Program> program = FindProgram(root.get(), wanted.args, wanted.env, wanted.cwd);
  std::lock_guard lock(mutex_);
  if (programs_.size() >= kMaxRemembered) programs_.clear();
  programs_.insert_or_assign(key, program);
  return program;
}

// A key keeps its user for as long as a user namespace of that user's may live.
absl::StatusOr<uint32_t> Zygotes::UidOf(const std::string& key) {
  std::lock_guard lock(mutex_);
  if (auto found = uids_.find(key); found != uids_.end()) return found->second;
  if (uids_.size() >= kUids) return absl::ResourceExhaustedError("all users for Zygotes are in use");
  const uint32_t uid = kFirstUid + static_cast<uint32_t>(uids_.size());
  uids_[key] = uid;
  RETURN_IF_ERROR(WriteFileAtomic(options_.state_file, nlohmann::json(uids_).dump(), Durability::kProcess));
  return uid;
}

absl::StatusOr<Choice> Zygotes::Choose(const Wanted& given) {
  Choice choice;
  Wanted wanted = given;
  auto plain = [&](const char* code, std::string reason) {
    choice.code = code;
    choice.reason = std::move(reason);
    return choice;
  };
  auto never = [&](const char* code, std::string reason) {
    std::lock_guard lock(mutex_);
    ++misses_[code];
    return plain(code, std::move(reason));
  };
  // Read before anything else, so that what can't be read is told whatever becomes of it.
  if (wanted.request.packages) {
    RETURN_IF_ERROR(
        Annotate(ParseRequirements(*wanted.request.packages).status(), wanted.request.packages_source));
  }
  if (wanted.request.imports) {
    RETURN_IF_ERROR(Annotate(ParseImports(*wanted.request.imports).status(), wanted.request.imports_source));
  }
  if (wanted.request.mode == oci::ZygoteRequest::Mode::kOff) return never("off", "zygote.cri-sock.io is off");
  if (!wanted.unforkable.empty()) return never("pod", wanted.unforkable);
  if (wanted.terminal) return never("terminal", "it has a terminal");
  absl::StatusOr<Program> program = ProgramOf(wanted);
  if (!program.ok()) return never("program", std::string(program.status().message()));
  if (std::string volume = VolumeInTheWay(wanted, program->interpreter); !volume.empty())
    return never("volume", Cat("a volume at `", volume, "` lies where Python looks for modules"));
  for (const std::string& variable : wanted.env)
    if (variable.starts_with("PYTHONPATH="))
      for (absl::string_view place : absl::StrSplit(variable.substr(11), ':'))
        if (!place.empty() && place[0] != '/')
          return never("pythonpath", Cat("PYTHONPATH has the relative path `", place,
                                         "`, which means another place in a Zygote"));
  const std::vector<std::string> env = StartEnvironment(wanted.image.config.env, wanted.env);
  std::unique_lock lock(mutex_);
  std::string learnt;
  if (options_.learn && !wanted.request.packages && !wanted.request.imports) {
    const std::string key =
        Hash({wanted.image.id, program->interpreter, Joined(program->options),
              std::to_string(static_cast<int>(program->mode)), program->target, wanted.trust_domain});
    auto known = learned_.find(key);
    if (known == learned_.end()) {
      choice.learn = key;
    } else if (!known->second.modules.empty() && !known->second.unforkable) {
      // A module that is the program itself is not to be loaded before it runs.
      std::vector<std::string> modules = known->second.modules;
      if (program->mode == Program::Mode::kModule) std::erase(modules, program->target);
      wanted.request.imports = absl::StrJoin(modules, ",");
      learnt = key;
    }
  }
  choice.key = KeyOf(wanted, *program, env);
  if (std::string strange = Strange(wanted, choice.key, env); !strange.empty()) {
    ++misses_["strange"];
    return plain("strange", std::move(strange));
  }
  EntryPtr& entry = entries_[choice.key];
  const auto now = steady_clock::now();
  if (!entry) {
    entry = std::make_shared<Entry>();
    entry->status.key = choice.key;
    entry->status.image = wanted.image.id;
    entry->status.trust_domain = wanted.trust_domain;
    entry->status.state = "ended";
    entry->status.learnt = !learnt.empty();
    entry->learnt = learnt;
    entry->wanted = wanted;
    entry->program = *program;
    entry->env = env;
  }
  entry->used = now;
  entry->uses.Add(now);
  Learn(wanted, *entry);
  if (entry->status.state == "ended" && now >= entry->retry_at) {
    entry->status.state = "making";
    queue_.push_back(choice.key);
    wake_.notify_all();
  }
  const std::string& state = entry->status.state;
  if (state == "ready" && wanted.sandbox_owner == entry->status.uid) {
    runtime::ForkRequest fork;
    fork.zygote_id = entry->status.id;
    fork.confined = wanted.default_seccomp != nullptr;
    static constexpr const char* kModes[] = {"script", "module", "command"};
    fork.program.AddAll("arg", program->args);
    fork.program.Add("comm", wanted.args[0].substr(wanted.args[0].rfind('/') + 1));
    fork.program.Add("mode", kModes[static_cast<int>(program->mode)]);
    fork.program.Add("target", program->target);
    fork.program.AddAll("argument", program->arguments);
    if (program->unbuffered) fork.program.Add("option", "-u");
    if (program->dont_write_bytecode) fork.program.Add("option", "-B");
    choice.fork = std::move(fork);
    if (auto predicted = predicted_.find(wanted.sandbox); predicted != predicted_.end()) {
      ++entry->status.predicted_hits;
      predicted_.erase(predicted);
    }
    return choice;
  }
  if (state == "ready")
    plain("sandbox-owner", "sandbox-owner: its sandbox was made before it was known which Zygote serves it");
  else if (state == "making")
    plain("making", "its Zygote is being made");
  else
    plain(state == "unforkable" ? "unforkable" : "ended",
          Cat("its Zygote is ", state, ": ", entry->status.reason));
  ++entry->status.misses;
  ++misses_[choice.code];
  entry->status.last_miss = choice.reason;
  entry->recent.Add(now);
  const EntryPtr asked = entry;
  lock.unlock();
  Keep(asked);
  return choice;
}

void Zygotes::Tell(const Choice& choice, const std::string& container, const std::string& reason) {
  std::lock_guard lock(mutex_);
  auto found = entries_.find(choice.key);
  if (found == entries_.end()) return;
  ZygoteStatus& status = found->second->status;
  if (!reason.empty()) {
    ++status.misses;
    ++misses_["fork"];
    status.last_miss = reason;
    return Fail(*found->second, reason);
  }
  found->second->failures = 0;
  ++status.hits;
  ++status.forks;
  status.saved_ms += status.start_ms + status.import_ms;
  children_[container] = {choice.key, choice.fork->zygote_id, {}, 0, {}, {}};
}

void Zygotes::Adopt(const std::string& key, const std::string& container) {
  std::lock_guard lock(mutex_);
  children_[container] = {key, "", {}, 0, {}, {}};
}

// With mutex_ held. What fails again and again costs every pod that asks for it: it is asked less and less.
void Zygotes::Fail(Entry& entry, const std::string& reason) {
  ZygoteStatus& status = entry.status;
  status.reason = reason;
  if (++entry.failures < kFailures || status.state != "ready") return;
  status.state = "ended";
  if (auto known = learned_.find(entry.learnt); known != learned_.end()) known->second.unforkable = true;
  status.reason = Cat("given up for a while after ", entry.failures, " failures, the last: ", reason);
  entry.retry_at = steady_clock::now() + kRetry * (1 << std::min(entry.failures - kFailures, 6));
  if (!status.id.empty()) ended_.push_back(std::exchange(status.id, ""));
  wake_.notify_all();
}

// With mutex_ held.
Zygotes::Prediction& Zygotes::KindOf(const std::string& kind) {
  if (predictions_.size() >= kMaxRemembered && !predictions_.contains(kind)) predictions_.clear();
  return predictions_[kind];
}

// With mutex_ held. Why no Zygote is made for `key`; empty: one may be. Where each pod of a kind brings
// variables of its own, as OTEL_RESOURCE_ATTRIBUTES with its name, no Zygote would ever serve a second one.
std::string Zygotes::Strange(const Wanted& wanted, const std::string& key,
                             const std::vector<std::string>& env) {
  if (wanted.kinds.empty()) return "";
  Prediction& known = KindOf(wanted.kinds[0]);
  known.strangers = entries_.contains(key) ? 0 : known.strangers + 1;
  if (known.strangers <= kMaxStrangers) return "";
  std::vector<std::string> names;
  if (auto last = entries_.find(known.key); last != entries_.end())
    for (const std::string& variable : env)
      if (std::ranges::find(last->second->env, variable) == last->second->env.end())
        names.push_back(variable.substr(0, variable.find('=')));
  return Cat("each pod of its kind asks for a Zygote of its own: ",
             names.empty() ? "they differ" : Cat("they differ in ", absl::StrJoin(names, ", ")));
}

// With mutex_ held.
void Zygotes::Learn(const Wanted& wanted, const Entry& entry) {
  for (const std::string& kind : wanted.kinds) {
    Prediction& known = KindOf(kind);
    if (known.sandbox == wanted.sandbox)
      if (auto other = entries_.find(known.key);
          other != entries_.end() && other->second->status.import_ms > entry.status.import_ms)
        continue;
    known.key = entry.status.key;
    known.sandbox = wanted.sandbox;
  }
}

void Zygotes::OnSandboxEnd(const std::string& sandbox) {
  std::lock_guard lock(mutex_);
  auto predicted = predicted_.extract(sandbox);
  if (!predicted) return;
  if (auto entry = entries_.find(predicted.mapped().key); entry != entries_.end())
    ++entry->second->status.predicted_misses;
}

std::string Zygotes::Predict(const std::vector<std::string>& kinds, const std::string& sandbox) {
  EntryPtr entry;
  std::string id;
  {
    std::lock_guard lock(mutex_);
    auto known = predictions_.end();
    for (auto kind = kinds.begin(); kind != kinds.end() && known == predictions_.end(); ++kind)
      known = predictions_.find(*kind);
    if (known == predictions_.end() || known->second.strangers > kMaxStrangers) return "";
    auto found = entries_.find(known->second.key);
    if (found == entries_.end() || found->second->status.state != "ready") return "";
    entry = found->second;
    id = entry->status.id;
    ++entry->status.predicted;
    entry->used = steady_clock::now();
    entry->recent.Add(entry->used);
    predicted_[sandbox] = {known->second.key, entry->used};
  }
  Keep(entry);
  return id;
}

// As many as pods came within the last minute or so.
int Zygotes::Wished(const Entry& entry, steady_clock::time_point now) const {
  if (now - entry.used > options_.idle) return 0;
  return std::clamp(static_cast<int>(std::ceil(entry.recent.At(now))), options_.parked,
                    std::max(options_.parked, options_.parked_most));
}

// More at once; fewer by and by.
void Zygotes::Keep(const EntryPtr& entry) {
  std::string id;
  int wished = 0;
  {
    std::lock_guard lock(mutex_);
    wished = Wished(*entry, steady_clock::now());
    if (entry->status.state != "ready" || wished <= entry->kept) return;
    entry->kept = wished;
    entry->status.frozen = false;
    id = entry->status.id;
  }
  runtime_->ResizeParked(id, wished);
}

bool Zygotes::OnExit(const std::string& id) {
  std::lock_guard lock(mutex_);
  auto found = by_id_.find(id);
  if (found == by_id_.end()) {
    children_.erase(id);
    if (auto watched = watched_.find(id); watched != watched_.end()) {
      next_upkeep_ = watched->second.until = steady_clock::now();
      wake_.notify_all();
    }
    return false;
  }
  if (auto entry = entries_.find(found->second);
      entry != entries_.end() && entry->second->status.id == id && entry->second->status.state == "ready") {
    entry->second->status.id.clear();
    Fail(*entry->second, "it was killed or crashed");
    if (entry->second->status.state == "ready") {  // at once, since pods of its kind are about
      entry->second->status.state = "making";
      queue_.push_back(found->second);
    }
  }
  ended_.push_back(id);
  wake_.notify_all();
  return true;
}

ZygotesStatus Zygotes::Snapshot() {
  ZygotesStatus all;
  all.misses = misses_;
  all.memory_budget = options_.memory_budget;
  all.retained_bytes = Retained();
  for (const auto& [key, entry] : entries_) {
    all.zygotes.push_back(entry->status);
    for (const auto& [container, child] : children_) {
      if (child.key != key) continue;
      ++all.zygotes.back().containers;
      all.zygotes.back().containers_memory += child.memory;
    }
  }
  return all;
}

ZygotesStatus Zygotes::List() {
  ZygotesStatus all;
  {
    std::lock_guard lock(mutex_);
    all = Snapshot();
  }
  for (ZygoteStatus& status : all.zygotes) {
    if (status.id.empty()) continue;
    if (auto stats = runtime_->Stats(status.id); stats.ok()) status.memory_bytes = stats->memory_usage;
    if (auto memory = runtime_->Memory(status.id); memory.ok()) status.memory = *memory;
    status.parked = runtime_->CountParked(status.id);
  }
  return all;
}

// With mutex_ held. An import that takes its time holds up none of another trust domain's.
std::deque<std::string>::iterator Zygotes::NextKey() {
  return std::find_if(queue_.begin(), queue_.end(), [this](const std::string& key) {
    return !making_for_.contains(entries_.at(key)->wanted.trust_domain);
  });
}

void Zygotes::Work() {
  const milliseconds tick =
      std::clamp<milliseconds>(options_.idle / 4, milliseconds(250), milliseconds(10000));
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait_until(lock, next_upkeep_,
                     [&] { return closing_ || !ended_.empty() || NextKey() != queue_.end(); });
    if (closing_) return;
    if (!ended_.empty()) {
      const std::string id = ended_.front();
      ended_.pop_front();
      lock.unlock();
      End(id);
      lock.lock();
      by_id_.erase(id);
      continue;
    }
    if (steady_clock::now() >= next_upkeep_) {
      next_upkeep_ = steady_clock::now() + tick;
      lock.unlock();
      Upkeep();
      lock.lock();
    } else if (auto next = NextKey(); next != queue_.end()) {
      const std::string key = *next;
      queue_.erase(next);
      const EntryPtr entry = entries_.at(key);
      making_for_.insert(entry->wanted.trust_domain);
      lock.unlock();
      MakeOne(key, entry);
      lock.lock();
      making_for_.erase(entry->wanted.trust_domain);
      wake_.notify_all();
    }
  }
}

void Zygotes::MakeOne(const std::string& key, const EntryPtr& entry) {
  std::unique_lock lock(mutex_);
  ZygoteStatus& status = entry->status;
  if (status.state == "ready" && !entry->rotating) return;  // it was asked for twice
  const std::string id = NewId();
  by_id_[id] = key;
  Entry copy = *entry;
  lock.unlock();
  const auto begin = steady_clock::now();
  absl::Status made = Make(copy, id);
  if (!made.ok()) {
    End(id);
    spdlog::info("no Zygote for {}: {}", copy.status.image, std::string(made.message()));
  }
  lock.lock();
  const auto now = steady_clock::now();
  status.uid = copy.status.uid;
  const bool rotated = std::exchange(entry->rotating, false) && status.state == "ready";
  if (!made.ok() || !by_id_.contains(id)) {
    by_id_.erase(id);
    entry->rotate_at = now + kRetry;
    entry->retry_at = now + kRetry;
    if (rotated) return;  // the old one serves on
    // What an image or its packages are does not change; what the node lacks may.
    status.state = absl::IsFailedPrecondition(made) ? "unforkable" : "ended";
    status.reason = std::string(made.message());
    // Without them it may be.
    if (auto known = learned_.find(entry->learnt); known != learned_.end() && status.state == "unforkable")
      known->second.unforkable = true;
    return;
  }
  status.modules = copy.status.modules;
  status.start_ms = copy.status.start_ms;
  status.import_ms = copy.status.import_ms;
  const std::string old = std::exchange(status.id, id);
  if (!old.empty()) retiring_.emplace_back(now + kRetire, old);
  status.state = "ready";
  status.reason.clear();
  status.forks = 0;
  status.frozen = false;
  status.made_at = std::chrono::system_clock::now();
  if (options_.rotate_age.count() > 0) entry->rotate_at = now + options_.rotate_age;
  entry->kept = Wished(*entry, now);
  const int kept = entry->kept;
  lock.unlock();
  runtime_->KeepParked(id, copy.status.uid, kept);
  if (!old.empty()) runtime_->ResizeParked(old, 0);
  spdlog::info("Zygote {} of {} with {} modules is ready after {} ms{}", id, copy.status.image,
               copy.status.modules.size(),
               std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin).count(),
               old.empty() ? "" : Cat(" in the place of ", old));
  Evict();
}

absl::StatusOr<Fields> Zygotes::Ask(const std::string& id, const Fields& request, milliseconds limit) {
  {
    std::lock_guard lock(mutex_);
    if (closing_) return absl::CancelledError("the daemon ends");
  }
  return runtime_->CallZygote(id, request, limit);
}

absl::StatusOr<std::vector<std::string>> Zygotes::ModulesOf(const Entry& entry, const std::string& id) {
  std::vector<std::string> modules;
  if (!entry.learnt.empty()) {
    for (absl::string_view module : absl::StrSplit(*entry.wanted.request.imports, ',', absl::SkipEmpty()))
      modules.emplace_back(module);
    return modules;
  }
  if (entry.wanted.request.imports) {
    ASSIGN_OR_RETURN(modules, ParseImports(*entry.wanted.request.imports));
  }
  if (!entry.wanted.request.packages) return modules;
  ASSIGN_OR_RETURN(std::vector<Requirement> requirements, ParseRequirements(*entry.wanted.request.packages));
  ASSIGN_OR_RETURN(Fields hello, Ask(id, Fields("hello"), kAnswer));
  ASSIGN_OR_RETURN(std::string runtime, hello.Get("runtime"));
  ASSIGN_OR_RETURN(Fields probed, Ask(id, Fields("probe"), options_.import_limit));
  ASSIGN_OR_RETURN_AS(
      std::vector<std::string> found,
      Match(requirements, ParseInstalled(probed.GetAll("package")), runtime.substr(runtime.find('-') + 1)),
      entry.wanted.request.packages_source);
  if (!entry.wanted.request.imports) modules = std::move(found);
  return modules;
}

absl::Status Zygotes::Make(Entry& entry, const std::string& id) {
  ASSIGN_OR_RETURN(entry.status.uid, UidOf(entry.status.key));
  runtime::ContainerSpec spec;
  spec.id = id;
  spec.zygote = spec.host_pid = true;
  ASSIGN_OR_RETURN(spec.rootfs, images_->CreateSnapshot(id, entry.wanted.image.id, 0, 0));
  spec.rootfs.upper_dir.clear();
  spec.rootfs.work_dir.clear();
  spec.user.uid = spec.user.gid = entry.status.uid;
  spec.user.strict_groups = true;
  oci::Spec& oci = spec.spec;
  oci.process.args = {entry.program.interpreter};
  for (const std::string& option : entry.program.options) oci.process.args.push_back(option);
  oci.process.args.push_back("-c");
  oci.process.args.emplace_back(kHelper);
  oci.process.env = entry.env;
  oci.process.cwd = "/";
  oci.seccomp = std::make_shared<oci::Seccomp>(
      entry.wanted.default_seccomp ? BaseFilter(*entry.wanted.default_seccomp) : WithoutRings());
  oci.root_readonly = true;
  oci.hostname = "zygote";
  const std::string owner = Cat("uid=", entry.status.uid), group = Cat("gid=", entry.status.uid);
  oci.mounts = {{"/proc", "proc", "proc", {"nosuid", "nodev", "noexec", "hidepid=2"}, {}, {}},
                {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}, {}, {}},
                {"/dev/shm", "tmpfs", "shm", {"nosuid", "nodev", "noexec", "mode=1777", "size=64m"}, {}, {}},
                {"/sys", "sysfs", "sysfs", {"nosuid", "nodev", "noexec", "ro"}, {}, {}},
                {"/tmp", "tmpfs", "tmpfs", {"nosuid", "nodev", "mode=1777", "size=64m"}, {}, {}}};
  oci.masked_paths = oci::kMaskedPaths;
  oci.readonly_paths = oci::kReadonlyPaths;
  oci.resources.memory_limit = options_.memory_limit;
  oci.resources.pids_limit = kProcesses + std::max(options_.parked, options_.parked_most);
  RETURN_IF_ERROR(runtime_->cgroups().EnsureParent(options_.cgroup_parent));
  oci.cgroups_path = runtime_->cgroups().PathFor(options_.cgroup_parent, id);
  RETURN_IF_ERROR(runtime_->CreateContainer(spec).status());
  const auto begin = steady_clock::now();
  RETURN_IF_ERROR(runtime_->StartContainer(id));
  RETURN_IF_ERROR(Ask(id, Fields("hello"), options_.import_limit).status());
  entry.status.start_ms =
      static_cast<uint64_t>(std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin).count());

  absl::StatusOr<std::vector<std::string>> modules = ModulesOf(entry, id);
  if (absl::IsInvalidArgument(modules.status()) || absl::IsNotFound(modules.status()))
    return absl::FailedPreconditionError(std::string(modules.status().message()));
  RETURN_IF_ERROR(modules.status());
  Fields load("load");
  load.AddAll("module", *modules);
  absl::StatusOr<Fields> loaded = Ask(id, load, options_.import_limit);
  // An import that does not end, crashes or takes all memory does so again.
  if (!loaded.ok()) return absl::FailedPreconditionError(Cat("import: ", loaded.status().message()));
  // Of what was learnt, the program itself may have tried some in vain.
  if (std::vector<std::string> missing = loaded->GetAll("missing"); !missing.empty() && entry.learnt.empty())
    return absl::FailedPreconditionError(Cat("import: ", missing[0]));
  if (loaded->Get("forkable").value_or("no") != "yes")
    return absl::FailedPreconditionError(loaded->Get("reason").value_or("it does not say why"));
  ASSIGN_OR_RETURN(std::vector<pid_t> processes, runtime_->cgroups().Pids(oci.cgroups_path));
  if (processes.size() > 1) return absl::FailedPreconditionError("the import leaves a process behind");
  entry.status.modules = loaded->GetAll("module");
  entry.status.import_ms = loaded->GetNumber("milliseconds").value_or(0);
  return absl::OkStatus();
}

void Zygotes::End(const std::string& id) {
  runtime_->DropParked(id);
  if (absl::Status removed = runtime_->RemoveContainer(id); !removed.ok())
    spdlog::warn("end Zygote {}: {}", id, std::string(removed.message()));
  images_->RemoveSnapshot(id).IgnoreError();
}

}  // namespace sock::zygote
