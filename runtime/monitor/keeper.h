// The outer half of cri-sock-monitor, so that no death of ours ends or orphans a container.
//
// The keeper is the monitor's parent, a subreaper, and does three things only: it holds a copy of what the
// monitor knows of each process and of its descriptors; it starts the monitor again when that has died, and
// hands all of it over; and it reaps, with their true exits, the processes that then fell to it. When the
// keeper dies, the monitor becomes the keeper by execve(2), so that its children stay its own, and a fresh
// monitor goes on below. An upgrade takes the same way; until one is asked for, whoever is started again is
// the program that ran before, whatever lies at its path now.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"
#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {

// With this status a monitor ends that wants its keeper to be replaced (KeeperMessage.upgrade).
inline constexpr int kUpgradeStatus = 64;

struct Held {
  Kept kept;  // without `descriptors`
  std::map<Kept::Descriptor, Fd> fds;
};
using Holdings = std::map<std::string, Held>;

// One message about `kept`, with `kept.descriptors` filled in from `fds`. UNAVAILABLE: the other side is
// gone.
absl::Status SendKept(int channel, Kept kept, const std::map<Kept::Descriptor, int>& fds);

// Merges a received message into `holdings`. INVALID_ARGUMENT: the descriptors are not those that it names.
absl::Status TakeKept(Kept kept, std::vector<Fd> fds, Holdings& holdings);

// The program that runs, also where another lies at its path, or none.
inline constexpr char kOwnImage[] = "/proc/self/exe";

// Replaces this process by `file`, called `program`, as a keeper that has `holdings` and listens at
// `listener`. Returns only where that can't be executed.
absl::Status BecomeKeeper(const std::string& file, const std::string& program, const Fd& listener,
                          const Holdings& holdings);

// Reads what BecomeKeeper left in the memfd `state`, -1 for nothing.
absl::StatusOr<Holdings> ReadHoldings(int state);

// Starts the monitor (`program` serve LISTENER CHANNEL) and looks after it until it ends with status 0.
[[noreturn]] void RunKeeper(const std::string& program, Fd listener, Holdings holdings);

}  // namespace sock::runtime::monitor
