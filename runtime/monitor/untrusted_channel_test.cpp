#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "runtime/monitor/forking.h"

namespace sock::runtime::monitor {
namespace {

using std::chrono::steady_clock;

// A connection to itself that nobody reads, and whose close(2) waits for that: socket(7), SO_LINGER.
struct Lingering {
  Fd listener{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)},
      socket_{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  Lingering() {
    sockaddr_in address{AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
    socklen_t size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(listener.get(), any, size) | listen(listener.get(), 1), 0);
    EXPECT_EQ(getsockname(listener.get(), any, &size) | connect(socket_.get(), any, size), 0);
    char bytes[65536] = {};
    while (send(socket_.get(), bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
    }
    const linger wait{1, 60};
    EXPECT_EQ(setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &wait, sizeof wait), 0);
  }
};

// Leaves it to whoever receives it.
void Send(int to, std::string_view text, Fd fd) {
  iovec part{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = fd.get();
  memcpy(CMSG_DATA(header), &number, sizeof number);
  EXPECT_EQ(sendmsg(to, &message, 0), static_cast<ssize_t>(text.size()));
}

TEST(UntrustedChannel, ClosesNoDescriptorOfAnothers) {
  auto made = UntrustedChannel::Make();
  ASSERT_TRUE(made.ok());
  auto& [channel, other] = *made;
  Lingering first, second;
  const auto begin = steady_clock::now();
  Send(other.get(), std::string_view("op\0x\0", 5), std::move(first.socket_));
  Send(other.get(), "", std::move(second.socket_));
  EXPECT_EQ(channel.Receive().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(channel.Release().ok());
  channel.Close();
  EXPECT_FALSE(channel.valid());
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_GT(wait(nullptr), 0);  // who closed them has ended
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_LT(send(other.get(), "x", 1, MSG_NOSIGNAL), 0);
}

TEST(UntrustedChannel, NothingComesAfterItsRelease) {
  auto made = UntrustedChannel::Make();
  ASSERT_TRUE(made.ok());
  auto& [channel, other] = *made;
  ASSERT_EQ(send(other.get(), "op\0x\0", 5, 0), 5);
  absl::StatusOr<UntrustedChannel::Packet> packet = channel.Receive();
  ASSERT_TRUE(packet.ok());
  EXPECT_EQ(packet->sender, getpid());
  absl::StatusOr<Fd> released = channel.Release();
  ASSERT_TRUE(released.ok());
  EXPECT_LT(send(other.get(), "op\0x\0", 5, MSG_NOSIGNAL), 0);
  ASSERT_EQ(send(released->get(), "go", 2, 0), 2);
  released->Reset();
  char text[8];
  EXPECT_EQ(recv(other.get(), text, sizeof text, 0), 2);  // also once the other side is closed
}

}  // namespace
}  // namespace sock::runtime::monitor
