// What the daemon knows of sandboxes and containers. A record is an immutable value behind one pointer per
// object: a change is made on a copy, written to the object's file, then published. The table's lock is held
// for look-up alone. Times are nanoseconds since the epoch, 0: not yet.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api.pb.h"
#include "runtime/base/status.h"
#include "runtime/runtime.h"

namespace sock::cri {

namespace api = ::runtime::v1;

int64_t NowNs();

// The handler of lean pods with Zygotes.
inline constexpr char kSockHandler[] = "sock";

// The kinds that a pod is of, the narrowest first: what it has in common with the pods of its revision of a
// Deployment (or of what else makes pods), and with those of all revisions: namespace, labels and
// annotations, but for what is of one pod, or revision, alone.
std::vector<std::string> PodKinds(const api::PodSandboxConfig& config);

struct SandboxRecord {
  std::string id, handler;
  api::PodSandboxConfig config;
  sock::runtime::SandboxInfo info;
  std::string cgroup_parent;
  // Why a pod of handler `sock` is not given a user namespace where it asks for none, and never forks; else
  // empty.
  std::string node_users;
  int64_t created_at = 0, stopped_at = 0;

  // With the user namespace that the runtime chose for it, where it did.
  api::PodSandboxConfig EffectiveConfig() const;
  api::PodSandboxState state() const { return stopped_at ? api::SANDBOX_NOTREADY : api::SANDBOX_READY; }
  // Equal for a retry of the same attempt.
  std::string Name() const;
  std::string ToJson() const;
  static absl::StatusOr<SandboxRecord> FromJson(const std::string& text);
};

struct ContainerRecord {
  std::string id, sandbox_id;
  api::ContainerConfig config;
  api::LinuxContainerUser user;
  std::string image_id, image_ref, log_path, cgroup_path;
  std::string zygote;      // key of the Zygote that serves it or would; empty: none could
  std::string not_forked;  // why it was not forked from that; empty where it was
  int stop_signal = 0;
  int64_t created_at = 0, started_at = 0, finished_at = 0;
  int exit_code = 0;
  std::string reason, message;

  api::ContainerState state() const {
    return finished_at ? api::CONTAINER_EXITED : started_at ? api::CONTAINER_RUNNING : api::CONTAINER_CREATED;
  }
  bool forked() const { return !zygote.empty() && not_forked.empty(); }
  std::string Name() const;
  std::string ToJson() const;
  static absl::StatusOr<ContainerRecord> FromJson(const std::string& text);
};

// One sandbox or container.
template <typename Record>
class Object {
 public:
  Object(Record record, std::string file)
      : id(record.id), file_(std::move(file)), record_(std::make_shared<const Record>(std::move(record))) {}

  const std::string id;
  // Serialises operations: exclusive for those that end the object, shared for those that need it alive.
  std::shared_mutex op;

  std::shared_ptr<const Record> Get() const {
    std::lock_guard lock(mu_);
    return record_;
  }
  // Writes the record as it is. The object is not seen by others before.
  absl::Status Save();
  // Changes a copy, writes it, publishes it. With `force` it is published also where writing failed: for what
  // has already happened. NOT_FOUND after Erase.
  absl::Status Update(const std::function<void(Record&)>& change, bool force = false);
  // Removes the file; a later Update writes nothing.
  absl::Status Erase();

 private:
  const std::string file_;
  mutable std::mutex mu_;
  std::shared_ptr<const Record> record_;
  bool erased_ = false;
};

template <typename Record>
class Table {
 public:
  using Ptr = std::shared_ptr<Object<Record>>;

  // `kind` is the word in error messages; `dir` holds one file per object.
  Table(std::string kind, std::string dir) : kind_(std::move(kind)), dir_(std::move(dir)) {}

  // Reads every record of `dir`. What cannot be read is set aside as FILE.broken and told in `warnings`.
  absl::Status Load(std::vector<std::string>& warnings);

  // By full id, or by a prefix of at least 12 hex digits. NOT_FOUND; INVALID_ARGUMENT where it is ambiguous
  // or empty.
  absl::StatusOr<Ptr> Find(const std::string& id) const;
  std::vector<Ptr> List() const;

  // Reserves `name`. The id that already has it, or "" and the name is the caller's until Add or Release.
  // Waits while another caller holds the reservation.
  std::string Reserve(const std::string& name);
  void Release(const std::string& name);
  // Writes the record and publishes it under its name.
  absl::StatusOr<Ptr> Add(Record record);
  absl::Status Remove(const std::string& id);

 private:
  std::string FileOf(const std::string& id) const { return dir_ + "/" + id + ".json"; }

  const std::string kind_, dir_;
  mutable std::mutex mu_;
  std::condition_variable released_;
  std::map<std::string, Ptr> objects_;
  std::map<std::string, std::string> names_;  // "": reserved, not added yet
};

using Sandbox = Object<SandboxRecord>;
using Container = Object<ContainerRecord>;

}  // namespace sock::cri
