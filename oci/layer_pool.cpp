#include "oci/layer_pool.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/ids.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {

LayerPool::LayerPool(std::string dir, size_t size)
    : dir_(std::move(dir)), size_(size), thread_([this] { Run(); }) {}

LayerPool::~LayerPool() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::StatusOr<std::string> LayerPool::Make() const {
  std::string made = Cat(dir_, "/", NewId());
  absl::Cleanup undo = [&] { RemoveTree(made).IgnoreError(); };
  for (auto [name, mode] : {std::pair{"", 0711}, {"/upper", 0755}, {"/work", 0755}}) {
    std::string path = made + name;
    // chmod, as the umask is the process's.
    if (mkdir(path.c_str(), 0700) < 0 || chmod(path.c_str(), static_cast<mode_t>(mode)) < 0)
      return ErrnoStatus(errno, Cat("make directory `", path, "`"));
  }
  std::move(undo).Cancel();
  return made;
}

absl::StatusOr<std::string> LayerPool::Take() {
  {
    std::lock_guard lock(mutex_);
    if (!ready_.empty()) {
      std::string path = std::move(ready_.front());
      ready_.pop_front();
      wake_.notify_one();
      return path;
    }
  }
  return Make();
}

absl::Status LayerPool::Discard(const std::string& path) {
  std::string aside = Cat(dir_, "/", NewId());
  if (rename(path.c_str(), aside.c_str()) < 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, Cat("move `", path, "` aside"));
  }
  std::lock_guard lock(mutex_);
  doomed_.push_back(std::move(aside));
  wake_.notify_one();
  return absl::OkStatus();
}

void LayerPool::Run() {
  std::unique_lock lock(mutex_);
  bool can_make = true;
  while (true) {
    if (closing_) {
      doomed_.insert(doomed_.end(), ready_.begin(), ready_.end());
      ready_.clear();
    }
    // Making comes first while few are there: a start waits for it, and nobody for a removal.
    const bool make = can_make && !closing_ && ready_.size() < (doomed_.empty() ? size_ : size_ / 2);
    if (make) {
      lock.unlock();
      absl::StatusOr<std::string> made = Make();
      lock.lock();
      can_make = made.ok();  // a full disk: tried again when something has happened
      if (made.ok()) ready_.push_back(*std::move(made));
    } else if (!doomed_.empty()) {
      std::string path = std::move(doomed_.front());
      doomed_.pop_front();
      lock.unlock();
      RemoveTree(path).IgnoreError();  // what can't be removed now is removed when the store is opened again
      lock.lock();
      can_make = true;
    } else if (closing_) {
      return;
    } else {
      wake_.wait(lock);
      can_make = true;
    }
  }
}

}  // namespace sock::oci
