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
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(253 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC);
  if (n < 0 && errno != ECONNRESET) return ErrnoStatus(errno, "receive from a Zygote");
  Packet packet;
  for (cmsghdr* header = n < 0 ? nullptr : CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS) {
      ucred sender;
      memcpy(&sender, CMSG_DATA(header), sizeof sender);
      packet.sender = sender.pid;
    } else if (header->cmsg_type == SCM_RIGHTS) {
      for (size_t at = 0; at + CMSG_LEN(sizeof(int)) <= header->cmsg_len; at += sizeof(int)) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + at, sizeof fd);
        close(fd);
      }
    }
  }
  if (n <= 0) return absl::UnavailableError("the other side is gone");
  ASSIGN_OR_RETURN(packet.fields, Fields::Parse(std::string_view(text.get(), static_cast<size_t>(n))));
  return packet;
}

}  // namespace sock::runtime::monitor
