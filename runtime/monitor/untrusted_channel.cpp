#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/monitor/forking.h"

namespace sock::runtime::monitor {
namespace {

constexpr size_t kMaxDescriptors = 32;

// Lets nothing more come. Whether something had: each message has credentials, for which there is no room.
bool EndReceiving(int fd) {
  shutdown(fd, SHUT_RD);
  msghdr message{};
  while (recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == ECONNRESET) {
  }
  return (message.msg_flags & MSG_CTRUNC) != 0;
}

}  // namespace

absl::StatusOr<std::pair<UntrustedChannel, Fd>> UntrustedChannel::Make() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
    return ErrnoStatus(errno, "make a socket pair");
  Fd mine(fds[0]), other(fds[1]);
  const int on = 1;
  // Both must hold a whole packet.
  const int bytes = 4 * static_cast<int>(kMaxFieldsBytes);
  if (setsockopt(mine.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
      setsockopt(mine.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) < 0 ||
      fcntl(mine.get(), F_SETFL, O_NONBLOCK) < 0)
    return ErrnoStatus(errno, "prepare a socket pair");
  return std::pair(UntrustedChannel(std::move(mine)), std::move(other));
}

absl::Status UntrustedChannel::Send(const Fields& fields, std::span<const int> fds) {
  ASSIGN_OR_RETURN(const std::string text, fields.Serialize());
  if (fds.size() > kMaxDescriptors) return absl::ResourceExhaustedError("a message to a Zygote is too large");
  iovec part{const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  if (sendmsg(fd_.get(), &message, MSG_NOSIGNAL) >= 0) return absl::OkStatus();
  return errno == EPIPE || errno == ECONNRESET ? absl::UnavailableError("the other side is gone")
                                               : ErrnoStatus(errno, "send to a Zygote");
}

absl::StatusOr<UntrustedChannel::Packet> UntrustedChannel::Receive() {
  thread_local const auto text = std::make_unique_for_overwrite<char[]>(kMaxFieldsBytes + 1);
  iovec part{text.get(), kMaxFieldsBytes + 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];  // and no room for a descriptor
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ssize_t n = 0;
  for (const int flags : {int{MSG_PEEK}, 0}) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    n = recvmsg(fd_.get(), &message, flags);
    if (n < 0 && errno != ECONNRESET) return ErrnoStatus(errno, "receive from a Zygote");
    if (n < 0) break;
    if (message.msg_flags & MSG_CTRUNC)
      return absl::InvalidArgumentError("a message of a Zygote's brings descriptors");
  }
  Packet packet;
  if (const cmsghdr* header = n < 0 ? nullptr : CMSG_FIRSTHDR(&message);
      header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS) {
    ucred sender;
    memcpy(&sender, CMSG_DATA(header), sizeof sender);
    packet.sender = sender.pid;
  }
  if (n <= 0) return absl::UnavailableError("the other side is gone");
  ASSIGN_OR_RETURN(packet.fields, Fields::Parse(std::string_view(text.get(), static_cast<size_t>(n))));
  return packet;
}

absl::StatusOr<Fd> UntrustedChannel::Release() {
  if (EndReceiving(fd_.get())) return absl::InvalidArgumentError("a Zygote said more than it should");
  return std::move(fd_);
}

void UntrustedChannel::Close() {
  if (!fd_.valid()) return;
  // Descriptors that had come are closed with the socket: by a process that ends, which waits for none.
  if (EndReceiving(fd_.get())) {
    absl::StatusOr<Pipe> closed = MakePipe();
    const pid_t child = closed.ok() ? fork() : -1;
    if (child == 0) {
      closed->write.Reset();
      char byte;
      (void)!read(closed->read.get(), &byte, 1);
      _exit(0);
    }
    if (child < 0) fd_.Release();  // rather kept than waited for
  }
  fd_.Reset();
}

}  // namespace sock::runtime::monitor
