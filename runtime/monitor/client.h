// The daemon's side of the monitor's protocol.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"
#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {

inline constexpr uint32_t kVersion = 4;

// Tells a program from another that took its path: device, inode and time of change. "" if it is not there.
std::string ProgramIdentity(const std::string& path);

struct Answer {
  Reply reply;
  std::vector<Fd> fds;
};

class Client {
 public:
  // Connects to the monitor at `socket_path`, starting `program` where nobody listens, and making the one
  // that runs `program` where it is not the one of `identity` ("": whichever). `on_exit` is called from a
  // thread of the client once Deliver was called; `on_lost` once when the monitor is gone, from another one.
  static absl::StatusOr<std::unique_ptr<Client>> Open(const std::string& socket_path,
                                                      const std::string& program, const std::string& identity,
                                                      const std::function<void(const Exit&)>& on_exit,
                                                      const std::function<void()>& on_lost);
  ~Client();

  // Sends a request (its serial is set here) and waits for the answer; the monitor's error where it failed.
  // `fds` stay the caller's. UNAVAILABLE: the monitor is gone. DEADLINE_EXCEEDED: no answer within `timeout`
  // (0: waited for without end); one that comes later is dropped. From any thread.
  absl::StatusOr<Answer> Call(Request request, std::span<const int> fds = {},
                              std::chrono::milliseconds timeout = {});

  // True once the monitor is gone: no call will be answered any more.
  bool lost();

  // Exits that came are held back until now.
  void Deliver();

 private:
  Client(Fd socket, std::function<void(const Exit&)> on_exit, std::function<void()> on_lost);
  void Read();
  void Dispatch();

  Fd socket_;
  std::function<void(const Exit&)> on_exit_;
  std::function<void()> on_lost_;
  std::mutex send_mutex_, mutex_;
  std::condition_variable wake_;
  std::unordered_map<uint64_t, std::promise<absl::StatusOr<Answer>>> waiting_;
  std::deque<Exit> exits_;
  uint64_t next_serial_ = 1;
  bool deliver_ = false, lost_ = false, closing_ = false;
  std::thread reader_, dispatcher_;
};

}  // namespace sock::runtime::monitor
