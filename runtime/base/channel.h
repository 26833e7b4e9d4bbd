// Messages with descriptors between our own processes, over a unix socket of type SOCK_SEQPACKET (unix(7)).
// A message is whole or absent; one too large for a packet travels in a sealed memfd, unseen by both callers.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"

namespace sock {

inline constexpr size_t kMaxMessageBytes = 64 << 20;
inline constexpr size_t kMaxMessageFds = 250;  // the kernel's SCM_MAX_FD is 253

struct Message {
  std::string data;
  std::vector<Fd> fds;  // in the sender's order, all CLOEXEC
};

struct ChannelPair {
  Fd a, b;
};

// socketpair(2), SOCK_SEQPACKET | SOCK_CLOEXEC.
absl::StatusOr<ChannelPair> MakeChannel();

// Listens at `path` (an old socket there is replaced), mode 0600. Accept with accept4(2).
absl::StatusOr<Fd> ListenChannel(const std::string& path);
// Connects to a listener. UNAVAILABLE where nobody listens.
absl::StatusOr<Fd> ConnectChannel(const std::string& path);

// Sends one message; the descriptors stay the caller's. UNAVAILABLE if the other side is gone. Blocks unless
// the socket is non-blocking (then RESOURCE_EXHAUSTED with EAGAIN).
absl::Status SendMessage(int socket, std::string_view data, std::span<const int> fds = {});

// Receives one message. UNAVAILABLE at end of file; DATA_LOSS if descriptors or bytes were cut off;
// RESOURCE_EXHAUSTED with EAGAIN on a non-blocking socket with nothing to read.
absl::StatusOr<Message> RecvMessage(int socket);

}  // namespace sock
