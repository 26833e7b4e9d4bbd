// Network, IPC and UTS namespaces made and wired ahead of need, and the names they have on disk.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"

namespace sock::runtime {

struct SpareSandbox {
  Fd user, net, ipc, uts, shm;        // `user` where it has a user namespace
  uint32_t first_id = 0;              // of that: IdRanges
  uint32_t owner_uid = 0;             // of that
  std::string parked, parked_zygote;  // the process that waits in it, and whose it is
  std::string token;                  // of PodNetwork::Prepare
  std::string pins;                   // the name under which Pins holds them
};

class SparePool {
 public:
  // `make` and `discard` are called from the pool's thread, `discard` also from the destructor.
  SparePool(int size, std::function<absl::StatusOr<SpareSandbox>()> make,
            std::function<void(SpareSandbox)> discard);
  ~SparePool();
  // A ready spare, or false where there is none: the caller makes one itself.
  bool Take(SpareSandbox& spare);
  void Resize(int size);
  size_t ready() const {
    std::lock_guard lock(mutex_);
    return ready_.size();
  }

 private:
  void Fill();
  size_t size_;
  std::function<absl::StatusOr<SpareSandbox>()> make_;
  std::function<void(SpareSandbox)> discard_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<SpareSandbox> ready_;
  std::chrono::steady_clock::time_point taken_{};  // when Take gave the last one
  bool closing_ = false;
  std::thread thread_;
};

// Keeps a namespace alive under `path` by a bind mount (namespaces(7)).
absl::Status BindNamespace(int ns, const std::string& path);
// Gone is success.
absl::Status UnbindNamespace(const std::string& path);

}  // namespace sock::runtime
