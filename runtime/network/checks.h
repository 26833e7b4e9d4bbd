// CNI's CHECK behind everything else: of one pod one at a time, of all pods few, and ended when its pod goes.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/fd.h"
#include "runtime/network/pod_network.h"

namespace sock::runtime {

class NetworkChecks {
 public:
  // Looks at one attachment. Returns soon, with whatever status, once the descriptor `stop` is readable.
  using Look =
      std::function<absl::Status(const PodNetworkRequest& request, const std::string& state, int stop)>;
  // Of a pod whose network fails, fails in another way or is well again.
  using Tell = std::function<void(const std::string& sandbox_id, const absl::Status& status)>;

  // Both are called from threads of its own, `parallel` at most.
  NetworkChecks(size_t parallel, Look look, Tell tell);
  ~NetworkChecks();  // ends what runs

  void Add(PodNetworkRequest request, std::string state);
  // When it returns nothing looks at the pod any more, and it is forgotten.
  void Drop(const std::string& sandbox_id);
  // Looks at every pod that is known now, one after the other.
  void AskAll();
  // Looks at this one before the others, and waits for that at most `patience`. nullopt: not known.
  std::optional<NetworkCheck> Ask(const std::string& sandbox_id, std::chrono::milliseconds patience);
  NetworkCheckCounts Count() const;

 private:
  struct Pod {
    PodNetworkRequest request;
    std::string state;
    NetworkCheck check;
    bool running = false;
    Fd stop;  // eventfd(2), while it runs
  };
  void Enqueue(const std::shared_ptr<Pod>& pod, bool first);
  void Work();

  const size_t parallel_;
  const Look look_;
  const Tell tell_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<Pod>> pods_;
  std::deque<std::shared_ptr<Pod>> queue_;
  size_t idle_ = 0;
  bool closing_ = false;
  std::vector<std::thread> workers_;  // made when first needed
};

}  // namespace sock::runtime
