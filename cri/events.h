// What happened to sandboxes and containers, told to whoever listens (GetContainerEvents).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "api.pb.h"

namespace sock::cri {

class Events {
 public:
  // Called from the thread in which the event happened: it must not wait.
  using Listener = std::function<void(const ::runtime::v1::ContainerEventResponse&)>;

  int Add(Listener listener) {
    std::lock_guard lock(mutex_);
    listeners_[++last_] = std::make_shared<const Listener>(std::move(listener));
    return last_;
  }
  // A call that has begun may still come after it.
  void Remove(int id) {
    std::lock_guard lock(mutex_);
    listeners_.erase(id);
  }
  // Whether it is worth putting an event together.
  bool HasListeners() const {
    std::lock_guard lock(mutex_);
    return !listeners_.empty();
  }
  void Publish(const ::runtime::v1::ContainerEventResponse& event) const {
    std::vector<std::shared_ptr<const Listener>> listeners;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [id, listener] : listeners_) listeners.push_back(listener);
    }
    for (const auto& listener : listeners) (*listener)(event);
  }

 private:
  mutable std::mutex mutex_;
  std::map<int, std::shared_ptr<const Listener>> listeners_;
  int last_ = 0;
};

}  // namespace sock::cri
