#include "runtime/network/checks.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "runtime/base/status.h"

namespace sock::runtime {

NetworkChecks::NetworkChecks(size_t parallel, Look look, Tell tell)
    : parallel_(parallel), look_(std::move(look)), tell_(std::move(tell)) {}

NetworkChecks::~NetworkChecks() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    for (const auto& [id, pod] : pods_)
      if (pod->running) eventfd_write(pod->stop.get(), 1);
  }
  changed_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void NetworkChecks::Add(PodNetworkRequest request, std::string state) {
  auto pod = std::make_shared<Pod>();
  pod->request = std::move(request);
  pod->state = std::move(state);
  std::lock_guard lock(mutex_);
  pods_[pod->request.sandbox_id] = std::move(pod);
}

void NetworkChecks::Drop(const std::string& sandbox_id) {
  std::unique_lock lock(mutex_);
  auto node = pods_.extract(sandbox_id);
  if (node.empty()) return;
  const std::shared_ptr<Pod> pod = node.mapped();
  std::erase(queue_, pod);
  if (pod->running) eventfd_write(pod->stop.get(), 1);
  changed_.wait(lock, [&] { return !pod->running; });
}

void NetworkChecks::AskAll() {
  std::lock_guard lock(mutex_);
  for (const auto& [id, pod] : pods_) Enqueue(pod, false);
}

std::optional<NetworkCheck> NetworkChecks::Ask(const std::string& sandbox_id,
                                               std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  auto found = pods_.find(sandbox_id);
  if (found == pods_.end()) return std::nullopt;
  const std::shared_ptr<Pod> pod = found->second;
  Enqueue(pod, true);
  // One that is dropped meanwhile leaves the queue as well.
  changed_.wait_for(lock, patience, [&] { return !pod->running && !std::ranges::count(queue_, pod); });
  NetworkCheck check = pod->check;
  check.pending = pod->running || std::ranges::count(queue_, pod);
  return check;
}

NetworkCheckCounts NetworkChecks::Count() const {
  NetworkCheckCounts counts;
  std::lock_guard lock(mutex_);
  for (const auto& [id, pod] : pods_)
    if (pod->check.status) ++(pod->check.status->ok() ? counts.ok : counts.failed);
  return counts;
}

void NetworkChecks::Enqueue(const std::shared_ptr<Pod>& pod, bool first) {
  if (pod->running || closing_) return;
  if (first) {
    std::erase(queue_, pod);
    queue_.push_front(pod);
  } else if (!std::ranges::count(queue_, pod)) {
    queue_.push_back(pod);
  }
  if (idle_ < queue_.size() && workers_.size() < parallel_) workers_.emplace_back([this] { Work(); });
  changed_.notify_all();
}

void NetworkChecks::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    changed_.wait(lock, [&] { return closing_ || !queue_.empty(); });
    --idle_;
    if (closing_) return;
    const std::shared_ptr<Pod> pod = std::move(queue_.front());
    queue_.pop_front();
    pod->stop = Fd(eventfd(0, EFD_CLOEXEC));
    absl::Status status = pod->stop.valid() ? absl::OkStatus() : ErrnoStatus(errno, "make an eventfd");
    pod->running = true;
    lock.unlock();
    if (status.ok()) status = look_(pod->request, pod->state, pod->stop.get());
    lock.lock();
    const std::string& id = pod->request.sandbox_id;
    // What was ended says nothing of the network.
    if (auto known = pods_.find(id); known != pods_.end() && known->second == pod && !closing_) {
      const absl::Status before = pod->check.status.value_or(absl::OkStatus());
      pod->check.status = status;
      pod->check.at = std::chrono::system_clock::now();
      if (status != before) {
        lock.unlock();
        tell_(id, status);
        lock.lock();
      }
    }
    pod->running = false;
    pod->stop = Fd();
    changed_.notify_all();
  }
}

}  // namespace sock::runtime
