// Where the namespaces and the /dev/shm of sandboxes live while no process holds them: in a mount namespace
// of their own, so that the host's mount table, which every container's namespace begins as a copy of, stays
// as short with a thousand pods as with none. One mount of the host holds that namespace; it outlives every
// process of ours.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"

namespace sock::runtime {

class Pins {
 public:
  // Finds the mount namespace that `dir` holds, or makes one.
  static absl::StatusOr<std::unique_ptr<Pins>> Open(const std::string& dir);
  // Ends the removals; with nothing pinned, nothing of it stays.
  ~Pins();

  struct Owner {
    uint32_t uid = 0, gid = 0;  // the host's
  };
  // Pins namespaces by kind ("net", "ipc", "uts", "user") as `id`, and with `shm` a tmpfs for /dev/shm. All
  // or nothing.
  absl::Status Add(const std::string& id, const std::vector<std::pair<std::string, int>>& namespaces,
                   std::optional<Owner> shm);
  absl::Status Rename(const std::string& from, const std::string& to);
  // NOT_FOUND where it is not pinned.
  absl::StatusOr<Fd> Namespace(const std::string& id, const std::string& kind) const;
  // The tmpfs as a detached mount, ready to be attached elsewhere.
  absl::StatusOr<Fd> Shm(const std::string& id);
  // Its name is free at once; the mounts go soon, as taking them off waits for RCU. Gone is success.
  void Remove(const std::string& id);
  std::vector<std::string> List() const;

 private:
  Pins() = default;
  absl::Status Do(
      const std::function<absl::Status()>& task);  // on thread_, which lives in the mount namespace
  absl::Status Mount(const std::string& id, const std::vector<std::pair<std::string, int>>& namespaces,
                     std::optional<Owner> shm);
  void TakeOff(const std::string& name) const;
  void Run();

  std::string dir_;
  Fd root_;  // of the mount namespace
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<std::function<void()>> tasks_;
  std::deque<std::string> doomed_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace sock::runtime
