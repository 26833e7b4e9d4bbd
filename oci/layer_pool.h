// Writable layers made ahead of need and removed behind it: on a disk's file system each mkdir and rmdir may
// wait for the journal, 1 ms alone and 18 ms among ten.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace sock::oci {

class LayerPool {
 public:
  // `dir`: a folder of the pool's own, on the file system of the snapshots; what is in it is removed.
  LayerPool(std::string dir, size_t size);
  ~LayerPool();  // leaves `dir` empty

  // The path of a folder (0711) with empty `upper` and `work` (0755) of root's. The caller renames it to its
  // place.
  absl::StatusOr<std::string> Take();
  // Moves `path` aside at once, and removes it soon. Gone is success.
  absl::Status Discard(const std::string& path);

 private:
  absl::StatusOr<std::string> Make() const;
  void Run();

  const std::string dir_;
  const size_t size_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::string> ready_, doomed_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace sock::oci
