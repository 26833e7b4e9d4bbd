#include "runtime/spares.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {

namespace {

// Who has taken a spare starts a container in it, on the same processors and behind the same monitor.
constexpr std::chrono::milliseconds kPause(40);

}  // namespace

SparePool::SparePool(int size, std::function<absl::StatusOr<SpareSandbox>()> make,
                     std::function<void(SpareSandbox)> discard)
    : size_(size > 0 ? static_cast<size_t>(size) : 0),
      make_(std::move(make)),
      discard_(std::move(discard)),
      thread_([this] { Fill(); }) {}

SparePool::~SparePool() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  thread_.join();
  for (SpareSandbox& spare : ready_) discard_(std::move(spare));
}

bool SparePool::Take(SpareSandbox& spare) {
  std::lock_guard lock(mutex_);
  if (ready_.empty()) {
    wake_.notify_all();
    return false;
  }
  spare = std::move(ready_.front());
  ready_.pop_front();
  taken_ = std::chrono::steady_clock::now();
  wake_.notify_all();
  return true;
}

void SparePool::Resize(int size) {
  std::lock_guard lock(mutex_);
  size_ = size > 0 ? static_cast<size_t>(size) : 0;
  wake_.notify_all();
}

void SparePool::Fill() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    if (ready_.size() > size_) {
      SpareSandbox spare = std::move(ready_.back());
      ready_.pop_back();
      lock.unlock();
      discard_(std::move(spare));
      lock.lock();
      continue;
    }
    if (ready_.size() >= size_) {
      wake_.wait(lock);
      continue;
    }
    // While half of them are left, the next one can wait until that start is over.
    if (const auto quiet = taken_ + kPause;
        2 * ready_.size() >= size_ && std::chrono::steady_clock::now() < quiet) {
      wake_.wait_until(lock, quiet);
      continue;
    }
    lock.unlock();
    absl::StatusOr<SpareSandbox> spare = make_();
    lock.lock();
    if (spare.ok())
      ready_.push_back(*std::move(spare));
    else if (!closing_)
      wake_.wait(lock);  // the next taker makes us try again
  }
}

absl::Status BindNamespace(int ns, const std::string& path) {
  ASSIGN_OR_RETURN(Fd file, OpenPath(path, O_CREAT | O_RDONLY, 0600));
  if (mount(Cat("/proc/self/fd/", ns).c_str(), path.c_str(), nullptr, MS_BIND, nullptr) == 0)
    return absl::OkStatus();
  int err = errno;
  unlink(path.c_str());
  return ErrnoStatus(err, Cat("bind a namespace at `", path, "`"));
}

absl::Status UnbindNamespace(const std::string& path) {
  while (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
  }
  if (errno != EINVAL && errno != ENOENT) return ErrnoStatus(errno, Cat("unmount `", path, "`"));
  if (unlink(path.c_str()) < 0 && errno != ENOENT) return ErrnoStatus(errno, Cat("remove `", path, "`"));
  return absl::OkStatus();
}

}  // namespace sock::runtime
