// A packet as it comes out of a socket, and the messages that may be in it.
#include <sys/socket.h>

#include "runtime/base/channel.h"
#include "runtime/container/plan.pb.h"
#include "runtime/monitor/protocol.pb.h"
#include "test/fuzz/fuzz.h"

using namespace sock;
using namespace sock::runtime::monitor;

template <typename T>
static void Parse(const std::string& bytes) {
  T message;
  if (!message.ParseFromString(bytes)) return;
  T again;
  CHECK(again.ParseFromString(message.SerializeAsString()));
}

FUZZ(protocol) {
  auto pair = MakeChannel();
  CHECK(pair.ok());
  if (input.empty() || input.size() > 100000) return;
  CHECK(send(pair->a.get(), input.data(), input.size(), 0) == static_cast<ssize_t>(input.size()));
  auto message = RecvMessage(pair->b.get());
  if (!message.ok()) return;
  Parse<Request>(message->data);
  Parse<FromMonitor>(message->data);
  Parse<LogCommand>(message->data);
  Parse<KeeperMessage>(message->data);
  Parse<KeptState>(message->data);
  Parse<runtime::Plan>(message->data);
}
