// What a daemon tells the next one: which Zygotes there were and what kinds of pods they served.
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "runtime/base/atomic_file.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "runtime/container/seccomp_profile.h"
#include "zygote/zygotes.h"

namespace sock::zygote {
namespace {

using nlohmann::json;

json FromOptional(const std::optional<std::string>& text) { return text ? json(*text) : json(); }

// Absent, or of another type: as if it were not there.
template <typename T>
T Get(const json& from, const char* name) {
  auto found = from.find(name);
  if (found == from.end()) return T();
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->get<T>() : T();
  } else if constexpr (std::is_same_v<T, std::optional<std::string>>) {
    return found->is_string() ? T(found->get<std::string>()) : T();
  } else {
    T list;
    if (found->is_array())
      for (const json& one : *found)
        if (one.is_string()) list.push_back(one.get<std::string>());
    return list;
  }
}

}  // namespace

void Zygotes::Remember() {
  json kinds = json::array(), predictions = json::object();
  std::string text;
  std::lock_guard one(upkeep_mutex_);
  {
    std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    for (const auto& [key, entry] : entries_) {
      if (entry->status.state == "unforkable") continue;
      const Wanted& wanted = entry->wanted;
      kinds.push_back({{"key", key},
                       {"image", wanted.image.id},
                       {"packages", FromOptional(wanted.request.packages)},
                       {"packages_source", wanted.request.packages_source},
                       {"imports", FromOptional(wanted.request.imports)},
                       {"imports_source", wanted.request.imports_source},
                       {"trust_domain", wanted.trust_domain},
                       {"default_seccomp", wanted.default_seccomp != nullptr},
                       {"capabilities", wanted.capabilities},
                       {"interpreter", entry->program.interpreter},
                       {"version", entry->program.version},
                       {"options", entry->program.options},
                       {"env", entry->env},
                       {"learnt", entry->learnt},
                       {"in_use", Wished(*entry, now) > 0 && entry->status.state != "ended"}});
    }
    for (const auto& [pod, prediction] : predictions_) predictions[pod] = prediction.key;
    json learned = json::object();
    for (const auto& [key, one] : learned_)
      learned[key] = {{"modules", one.modules}, {"unforkable", one.unforkable}};
    text = json{{"kinds", kinds}, {"predictions", predictions}, {"learned", learned}}.dump(
        -1, ' ', false, json::error_handler_t::replace);
    if (text == remembered_) return;
    remembered_ = text;
  }
  if (absl::Status written = WriteFileAtomic(options_.kinds_file, text, Durability::kProcess); !written.ok())
    spdlog::warn("remember Zygotes: {}", std::string(written.message()));
}

void Zygotes::Recall() {
  absl::StatusOr<std::string> text = ReadFile(options_.kinds_file, 64 << 20);
  if (!text.ok()) return;
  const json known = json::parse(*text, nullptr, false);
  if (!known.is_object()) return;
  const auto now = std::chrono::steady_clock::now();
  const json kinds = known.value("kinds", json::array());
  for (const json& kind : kinds) {
    if (!kind.is_object()) continue;
    auto entry = std::make_shared<Entry>();
    Wanted& wanted = entry->wanted;
    absl::StatusOr<oci::Image> image = images_->Get(Get<std::string>(kind, "image"));
    if (!image.ok()) continue;  // it was removed meanwhile
    wanted.image = *std::move(image);
    wanted.request.packages = Get<std::optional<std::string>>(kind, "packages");
    wanted.request.packages_source = Get<std::string>(kind, "packages_source");
    wanted.request.imports = Get<std::optional<std::string>>(kind, "imports");
    wanted.request.imports_source = Get<std::string>(kind, "imports_source");
    wanted.trust_domain = Get<std::string>(kind, "trust_domain");
    wanted.capabilities = Get<std::vector<std::string>>(kind, "capabilities");
    if (kind.value("default_seccomp", json()) == true)
      wanted.default_seccomp = runtime::DefaultSeccompProfile(wanted.capabilities);
    entry->program.interpreter = Get<std::string>(kind, "interpreter");
    entry->program.version = Get<std::string>(kind, "version");
    entry->program.options = Get<std::vector<std::string>>(kind, "options");
    entry->env = Get<std::vector<std::string>>(kind, "env");
    const std::string key = Get<std::string>(kind, "key");
    // A daemon of another version may have another profile, or tell kinds apart by something else.
    if (entry->program.interpreter.empty() || KeyOf(wanted, entry->program, entry->env) != key) continue;
    entry->learnt = Get<std::string>(kind, "learnt");
    entry->status.learnt = !entry->learnt.empty();
    entry->status.key = key;
    entry->status.image = wanted.image.id;
    entry->status.trust_domain = wanted.trust_domain;
    entry->status.state = "ended";
    entry->status.reason = "the daemon was started again";
    if (kind.value("in_use", json()) == true) {
      entry->used = now;
      entry->status.state = "making";
      queue_.push_back(key);
    }
    entries_[key] = std::move(entry);
  }
  const json learned = known.value("learned", json::object());
  for (const auto& [key, one] : learned.items())
    if (one.is_object())
      learned_[key] = {Get<std::vector<std::string>>(one, "modules"),
                       one.value("unforkable", json()) == true};
  const json predictions = known.value("predictions", json::object());
  for (const auto& [pod, key] : predictions.items())
    if (key.is_string() && entries_.contains(key.get<std::string>()))
      predictions_[pod] = {key.get<std::string>()};
}

}  // namespace sock::zygote
