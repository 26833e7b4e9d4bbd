#include "cri/store.h"

#include <absl/strings/escaping.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/base/atomic_file.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::cri {

using nlohmann::json;

namespace {

constexpr int kVersion = 1;

std::string Pack(const google::protobuf::Message& message) {
  std::string text;
  absl::Base64Escape(message.SerializeAsString(), &text);
  return text;
}

// A record's fields by name; a missing or wrong one is remembered.
class Reader {
 public:
  explicit Reader(const std::string& text) : json_(json::parse(text, nullptr, false)) {
    if (!json_.is_object()) problem_ = "not a JSON object";
    int64_t version = 0;
    Read("version", version);
    if (problem_.empty() && version != kVersion) problem_ = Cat("version ", version, " is not known");
  }
  void Read(const char* key, std::string& out) {
    if (const json* v = Field(key, json::value_t::string)) out = v->get<std::string>();
  }
  void Read(const char* key, int64_t& out) {
    if (!json_.is_object()) return;
    auto it = json_.find(key);
    if (it == json_.end() || !it->is_number_integer()) return Fail(key);
    out = it->get<int64_t>();
  }
  void Read(const char* key, std::vector<std::string>& out) {
    const json* v = Field(key, json::value_t::array);
    if (!v) return;
    for (const json& item : *v) {
      if (!item.is_string()) return Fail(key);
      out.push_back(item.get<std::string>());
    }
  }
  void Read(const char* key, google::protobuf::Message& out) {
    std::string text, bytes;
    Read(key, text);
    if (!absl::Base64Unescape(text, &bytes) || !out.ParseFromString(bytes)) Fail(key);
  }
  absl::Status status() const {
    return problem_.empty() ? absl::OkStatus() : absl::DataLossError(Cat("parse record: ", problem_));
  }

 private:
  const json* Field(const char* key, json::value_t type) {
    if (!json_.is_object()) return nullptr;
    auto it = json_.find(key);
    if (it == json_.end() || it->type() != type) {
      Fail(key);
      return nullptr;
    }
    return &*it;
  }
  void Fail(const char* key) {
    if (problem_.empty()) problem_ = Cat("field `", key, "` is missing or wrong");
  }
  json json_;
  std::string problem_;
};

std::string Dump(const json& value) { return value.dump(1, ' ', false, json::error_handler_t::replace); }

bool IsHex(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string SandboxRecord::Name() const {
  const auto& m = config.metadata();
  return Cat(m.name(), "/", m.namespace_(), "/", m.uid(), "/", m.attempt());
}

api::PodSandboxConfig SandboxRecord::EffectiveConfig() const {
  api::PodSandboxConfig effective = config;
  if (info.uid_mappings.empty()) return effective;
  api::UserNamespace* users = effective.mutable_linux()
                                  ->mutable_security_context()
                                  ->mutable_namespace_options()
                                  ->mutable_userns_options();
  users->set_mode(api::POD);
  for (auto [from, to] :
       {std::pair{&info.uid_mappings, users->mutable_uids()}, {&info.gid_mappings, users->mutable_gids()}}) {
    to->Clear();
    for (const oci::IdMapping& one : *from) {
      api::IDMapping* mapping = to->Add();
      mapping->set_container_id(one.container_id);
      mapping->set_host_id(one.host_id);
      mapping->set_length(one.size);
    }
  }
  return effective;
}

std::string ContainerRecord::Name() const {
  return Cat(sandbox_id, "/", config.metadata().name(), "/", config.metadata().attempt());
}

std::string SandboxRecord::ToJson() const {
  const auto& net = info.network;
  return Dump({{"version", kVersion},
               {"id", id},
               {"handler", handler},
               {"config", Pack(config)},
               {"netns_path", info.netns_path},
               {"ips", net.ips},
               {"dns_servers", net.dns_servers},
               {"dns_searches", net.dns_searches},
               {"dns_options", net.dns_options},
               {"network_state", Pack([&] {
                  api::KeyValue bytes;  // opaque, maybe not UTF-8
                  bytes.set_value(net.state);
                  return bytes;
                }())},
               {"cgroup_parent", cgroup_parent},
               {"first_id", info.uid_mappings.empty() ? 0 : info.uid_mappings[0].host_id},
               {"ids", info.uid_mappings.empty() ? 0 : info.uid_mappings[0].size},
               {"owner_uid", info.owner_uid},
               {"node_users", node_users},
               {"created_at", created_at},
               {"stopped_at", stopped_at}});
}

absl::StatusOr<SandboxRecord> SandboxRecord::FromJson(const std::string& text) {
  SandboxRecord r;
  Reader in(text);
  in.Read("id", r.id);
  in.Read("handler", r.handler);
  in.Read("config", r.config);
  in.Read("netns_path", r.info.netns_path);
  in.Read("ips", r.info.network.ips);
  in.Read("dns_servers", r.info.network.dns_servers);
  in.Read("dns_searches", r.info.network.dns_searches);
  in.Read("dns_options", r.info.network.dns_options);
  api::KeyValue state;
  in.Read("network_state", state);
  r.info.network.state = state.value();
  in.Read("cgroup_parent", r.cgroup_parent);
  int64_t first_id = 0, ids = 0, owner = 0;
  in.Read("first_id", first_id);
  in.Read("ids", ids);
  in.Read("owner_uid", owner);
  in.Read("node_users", r.node_users);
  if (ids > 0)
    r.info.uid_mappings =
        r.info.gid_mappings = {{0, static_cast<uint32_t>(first_id), static_cast<uint32_t>(ids)}};
  r.info.owner_uid = static_cast<uint32_t>(owner);
  in.Read("created_at", r.created_at);
  in.Read("stopped_at", r.stopped_at);
  RETURN_IF_ERROR(in.status());
  return r;
}

std::string ContainerRecord::ToJson() const {
  return Dump({{"version", kVersion},
               {"id", id},
               {"sandbox_id", sandbox_id},
               {"config", Pack(config)},
               {"user", Pack(user)},
               {"image_id", image_id},
               {"image_ref", image_ref},
               {"log_path", log_path},
               {"cgroup_path", cgroup_path},
               {"zygote", zygote},
               {"not_forked", not_forked},
               {"stop_signal", stop_signal},
               {"created_at", created_at},
               {"started_at", started_at},
               {"finished_at", finished_at},
               {"exit_code", exit_code},
               {"reason", reason},
               {"message", message}});
}

absl::StatusOr<ContainerRecord> ContainerRecord::FromJson(const std::string& text) {
  ContainerRecord r;
  Reader in(text);
  int64_t signal = 0, exit_code = 0;
  in.Read("id", r.id);
  in.Read("sandbox_id", r.sandbox_id);
  in.Read("config", r.config);
  in.Read("user", r.user);
  in.Read("image_id", r.image_id);
  in.Read("image_ref", r.image_ref);
  in.Read("log_path", r.log_path);
  in.Read("cgroup_path", r.cgroup_path);
  in.Read("zygote", r.zygote);
  in.Read("not_forked", r.not_forked);
  in.Read("stop_signal", signal);
  in.Read("created_at", r.created_at);
  in.Read("started_at", r.started_at);
  in.Read("finished_at", r.finished_at);
  in.Read("exit_code", exit_code);
  in.Read("reason", r.reason);
  in.Read("message", r.message);
  RETURN_IF_ERROR(in.status());
  r.stop_signal = static_cast<int>(signal);
  r.exit_code = static_cast<int>(exit_code);
  return r;
}

template <typename Record>
absl::Status Object<Record>::Save() {
  std::lock_guard lock(mu_);
  return WriteFileAtomic(file_, record_->ToJson(), Durability::kProcess);
}

template <typename Record>
absl::Status Object<Record>::Update(const std::function<void(Record&)>& change, bool force) {
  std::lock_guard lock(mu_);
  if (erased_) return absl::NotFoundError(Cat("`", id, "` was removed"));
  auto next = std::make_shared<Record>(*record_);
  change(*next);
  absl::Status written = WriteFileAtomic(file_, next->ToJson(), Durability::kProcess);
  if (written.ok() || force) record_ = std::move(next);
  return written;
}

template <typename Record>
absl::Status Object<Record>::Erase() {
  std::lock_guard lock(mu_);
  if (unlink(file_.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, Cat("unlink `", file_, "`"));
  erased_ = true;
  return absl::OkStatus();
}

template <typename Record>
absl::Status Table<Record>::Load(std::vector<std::string>& warnings) {
  RETURN_IF_ERROR(MakeDirs(dir_, 0700));
  std::error_code error;
  std::vector<std::string> files;
  for (auto it = std::filesystem::directory_iterator(dir_, error); !error && it != end(it);
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".json")) files.push_back(it->path().string());
    // WriteFileAtomic's, whose writer was killed before it was published.
    if (name.find(".json.tmp-") != std::string::npos) unlink(it->path().c_str());
  }
  if (error) return ErrnoStatus(error.value(), Cat("list `", dir_, "`"));
  std::lock_guard lock(mu_);
  for (const std::string& file : files) {
    absl::StatusOr<std::string> text = ReadFile(file);
    absl::StatusOr<Record> record = text.ok() ? Record::FromJson(*text) : text.status();
    if (record.ok() && FileOf(record->id) != file) record = absl::DataLossError("its id is not the file's");
    if (!record.ok()) {
      warnings.push_back(
          Cat("load ", kind_, " `", file, "`: ", record.status().message(), "; set aside as .broken"));
      rename(file.c_str(), (file + ".broken").c_str());
      continue;
    }
    names_[record->Name()] = record->id;
    std::string id = record->id;
    objects_[id] = std::make_shared<Object<Record>>(*std::move(record), file);
  }
  return absl::OkStatus();
}

template <typename Record>
absl::StatusOr<typename Table<Record>::Ptr> Table<Record>::Find(const std::string& id) const {
  if (id.empty()) return absl::InvalidArgumentError(Cat(kind_, " id is empty"));
  std::lock_guard lock(mu_);
  auto it = objects_.lower_bound(id);
  if (it != objects_.end() && it->first == id) return it->second;
  if (it == objects_.end() || id.size() < 12 || !IsHex(id) || it->first.compare(0, id.size(), id) != 0) {
    return absl::NotFoundError(Cat(kind_, " `", id, "` is not known"));
  }
  auto next = std::next(it);
  if (next != objects_.end() && next->first.compare(0, id.size(), id) == 0) {
    return absl::InvalidArgumentError(Cat(kind_, " id `", id, "` is ambiguous"));
  }
  return it->second;
}

template <typename Record>
std::vector<typename Table<Record>::Ptr> Table<Record>::List() const {
  std::lock_guard lock(mu_);
  std::vector<Ptr> all;
  all.reserve(objects_.size());
  for (const auto& [id, object] : objects_) all.push_back(object);
  return all;
}

template <typename Record>
std::string Table<Record>::Reserve(const std::string& name) {
  std::unique_lock lock(mu_);
  while (true) {
    auto [it, inserted] = names_.try_emplace(name);
    if (inserted || !it->second.empty()) return it->second;
    released_.wait(lock);
  }
}

template <typename Record>
void Table<Record>::Release(const std::string& name) {
  {
    std::lock_guard lock(mu_);
    auto it = names_.find(name);
    if (it == names_.end() || !it->second.empty()) return;
    names_.erase(it);
  }
  released_.notify_all();
}

template <typename Record>
absl::StatusOr<typename Table<Record>::Ptr> Table<Record>::Add(Record record) {
  std::string name = record.Name(), id = record.id;
  auto object = std::make_shared<Object<Record>>(std::move(record), FileOf(id));
  RETURN_IF_ERROR(object->Save());
  {
    std::lock_guard lock(mu_);
    objects_[id] = object;
    names_[name] = id;
  }
  released_.notify_all();
  return object;
}

template <typename Record>
absl::Status Table<Record>::Remove(const std::string& id) {
  Ptr object;
  {
    std::lock_guard lock(mu_);
    auto it = objects_.find(id);
    if (it == objects_.end()) return absl::OkStatus();
    object = it->second;
  }
  RETURN_IF_ERROR(object->Erase());
  std::lock_guard lock(mu_);
  objects_.erase(id);
  auto name = names_.find(object->Get()->Name());
  if (name != names_.end() && name->second == id) names_.erase(name);
  return absl::OkStatus();
}

template class Object<SandboxRecord>;
template class Object<ContainerRecord>;
template class Table<SandboxRecord>;
template class Table<ContainerRecord>;

}  // namespace sock::cri
