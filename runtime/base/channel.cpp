#include "runtime/base/channel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock {
namespace {

// One byte before each payload: is it inline, or in the memfd that is the first descriptor?
constexpr char kInline = 'i', kInMemfd = 'm';
constexpr size_t kInlineLimit = 64 << 10;

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return absl::InvalidArgumentError(Cat("socket path `", path, "` is longer than 107 bytes"));
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

absl::StatusOr<Fd> PutInMemfd(std::string_view data) {
  Fd fd(memfd_create("message", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoStatus(errno, "make a memfd");
  RETURN_IF_ERROR(WriteAll(fd.get(), data));
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
    return ErrnoStatus(errno, "seal a memfd");
  return fd;
}

absl::StatusOr<std::string> TakeFromMemfd(int fd) {
  struct stat st;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_WRITE) || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0)
    return absl::DataLossError("a message's memfd is not sealed");
  if (static_cast<size_t>(st.st_size) > kMaxMessageBytes)
    return absl::DataLossError("a message is too large");
  std::string data(static_cast<size_t>(st.st_size), '\0');
  for (size_t done = 0; done < data.size();) {
    ssize_t n = pread(fd, data.data() + done, data.size() - done, static_cast<off_t>(done));
    if (n <= 0) return ErrnoStatus(n < 0 ? errno : EIO, "read a message's memfd");
    done += static_cast<size_t>(n);
  }
  return data;
}

}  // namespace

absl::StatusOr<ChannelPair> MakeChannel() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    return ErrnoStatus(errno, "make a socket pair");
  return ChannelPair{Fd(ends[0]), Fd(ends[1])};
}

absl::StatusOr<Fd> ListenChannel(const std::string& path) {
  ASSIGN_OR_RETURN(sockaddr_un address, Address(path));
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "make a socket");
  unlink(path.c_str());
  // The mode is set before anybody can connect: nobody may until listen(2).
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      chmod(path.c_str(), 0600) < 0 || listen(fd.get(), 16) < 0)
    return ErrnoStatus(errno, Cat("listen at `", path, "`"));
  return fd;
}

absl::StatusOr<Fd> ConnectChannel(const std::string& path) {
  ASSIGN_OR_RETURN(sockaddr_un address, Address(path));
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "make a socket");
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return WithCode(ErrnoStatus(errno, Cat("connect to `", path, "`")), absl::StatusCode::kUnavailable);
  return fd;
}

absl::Status SendMessage(int socket, std::string_view data, std::span<const int> fds) {
  if (data.size() > kMaxMessageBytes) return absl::ResourceExhaustedError("send a message: too many bytes");
  if (fds.size() > kMaxMessageFds)
    return absl::ResourceExhaustedError("send a message: too many descriptors");
  std::vector<int> all;
  Fd memfd;
  char kind = kInline;
  if (data.size() > kInlineLimit) {
    ASSIGN_OR_RETURN(memfd, PutInMemfd(data));
    kind = kInMemfd;
    all.push_back(memfd.get());
    data = {};
  }
  all.insert(all.end(), fds.begin(), fds.end());

  iovec parts[2] = {{&kind, 1}, {const_cast<char*>(data.data()), data.size()}};
  msghdr header{};
  header.msg_iov = parts;
  header.msg_iovlen = 2;
  std::vector<char> control(CMSG_SPACE(sizeof(int) * all.size()));
  if (!all.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * all.size());
    memcpy(CMSG_DATA(c), all.data(), sizeof(int) * all.size());
  }
  for (;;) {
    if (sendmsg(socket, &header, MSG_NOSIGNAL) >= 0) return absl::OkStatus();
    if (errno == EINTR) continue;
    absl::Status status = ErrnoStatus(errno, "send a message");
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
      return WithCode(status, absl::StatusCode::kUnavailable);
    return status;
  }
}

absl::StatusOr<Message> RecvMessage(int socket) {
  // Neither cleared nor made for each message, which costs more than the message itself.
  thread_local const auto buffer = std::make_unique_for_overwrite<char[]>(1 + kInlineLimit);
  std::vector<char> control(CMSG_SPACE(sizeof(int) * (kMaxMessageFds + 1)));
  iovec part{buffer.get(), 1 + kInlineLimit};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t n;
  // ECONNRESET is told once, where the other side left something unread; what it said before is still there.
  do n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  while (n < 0 && (errno == EINTR || errno == ECONNRESET));
  if (n < 0) {
    absl::Status status = ErrnoStatus(errno, "receive a message");
    if (errno == ENOTCONN) return WithCode(status, absl::StatusCode::kUnavailable);
    return status;
  }
  Message message;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      message.fds.emplace_back(fd);
    }
  }
  if (n == 0) return absl::UnavailableError("receive a message: the other side has closed");
  if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
    return absl::DataLossError("receive a message: it was cut off");
  if (buffer[0] == kInMemfd && !message.fds.empty()) {
    ASSIGN_OR_RETURN(message.data, TakeFromMemfd(message.fds.front().get()));
    message.fds.erase(message.fds.begin());
  } else if (buffer[0] == kInline) {
    message.data.assign(buffer.get() + 1, static_cast<size_t>(n) - 1);
  } else {
    return absl::DataLossError("receive a message: not one of ours");
  }
  return message;
}

}  // namespace sock
