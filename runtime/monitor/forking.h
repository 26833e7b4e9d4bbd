// What the monitor holds of a Zygote and of a process that is being forked from one (zygote/protocol.md).
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"
#include "runtime/base/fields.h"
#include "runtime/container/plan.pb.h"
#include "runtime/monitor/protocol.pb.h"
#include "runtime/monitor/verify.h"

namespace sock::runtime::monitor {

// One end of a packet socket whose other end is not trusted. What comes over it is bounded; descriptors are
// refused, and never closed here: the last close(2) of a socket waits for as long as its owner set
// (socket(7), SO_LINGER).
class UntrustedChannel {
 public:
  // socketpair(2); the other end is returned, and is for the child.
  static absl::StatusOr<std::pair<UntrustedChannel, Fd>> Make();
  UntrustedChannel() = default;
  UntrustedChannel(UntrustedChannel&&) = default;
  UntrustedChannel& operator=(UntrustedChannel&& other) {
    Close();
    fd_ = std::move(other.fd_);
    return *this;
  }
  ~UntrustedChannel() { Close(); }
  // RESOURCE_EXHAUSTED where it does not fit or the other side does not read.
  absl::Status Send(const Fields& fields, std::span<const int> fds = {});
  struct Packet {
    Fields fields{""};
    pid_t sender = 0;  // as the kernel tells (unix(7), SCM_CREDENTIALS)
  };
  // EAGAIN: nothing is there. UNAVAILABLE: end of file. INVALID_ARGUMENT: no message of the protocol, or it
  // brings descriptors.
  absl::StatusOr<Packet> Receive();
  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }
  void Close();
  // The socket, over which nothing comes any more. INVALID_ARGUMENT where something had come.
  absl::StatusOr<Fd> Release();

 private:
  explicit UntrustedChannel(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

// A Zygote's control socket and what was asked over it.
struct ZygoteControl {
  UntrustedChannel channel;
  uint64_t next_serial = 1;
  std::map<uint64_t, std::function<void(absl::StatusOr<Fields>)>> waiting;
};

// A process of a Zygote's on its way to the barrier. It is parked once the Zygote has answered, which it does
// when the intermediate process is reaped, and the process has spoken itself.
struct Forking {
  std::string zygote_id;
  UntrustedChannel channel;
  FileIdentity other_end;  // of the channel
  FileIdentity user_ns, net_ns, ipc_ns, uts_ns;
  FileIdentity pid_ns;  // of nothing: it is the first of one of its own
  bool answered = false;
  pid_t said = 0;
  bool parked = false;

  // What it is to be, once asked for.
  std::optional<Fork> wanted;
  Plan plan;
  std::vector<Fd> fds;  // the plan's
  Fd child_stdio[3];
  int zygote_filters = 0;
  pid_t builder = 0;
  Fd builder_pidfd, builder_barrier;
  FileIdentity mount_ns;
  std::string cgroups, mounts;
  Place root, cwd;
  bool entering = false, ready = false, building = false, stopping = false;
};

}  // namespace sock::runtime::monitor
