// cri-sock-monitor keep LISTENER [STATE]: the keeper (keeper.h). The daemon starts it with a listening socket
// as descriptor LISTENER; STATE is what an earlier keeper or monitor left. cri-sock-monitor serve LISTENER
// CHANNEL: the monitor (server.h), as the keeper starts it.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string_view>

#include "absl/strings/numbers.h"
#include "runtime/monitor/keeper.h"
#include "runtime/monitor/server.h"

namespace {

// A descriptor that was inherited: -1 if `text` does not name one.
int Inherited(const char* text) {
  int fd;
  if (!absl::SimpleAtoi(text, &fd) || fd < 3 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return -1;
  return fd;
}

}  // namespace

int main(int argc, char** argv) {
  namespace monitor = sock::runtime::monitor;
  if (argc < 3 || argc > 4) return 2;
  const std::string_view role = argv[1];
  const int listener = Inherited(argv[2]);
  const int second = argc == 4 ? Inherited(argv[3]) : -1;
  if (listener < 0 || (argc == 4 && second < 0) || chdir("/") < 0) return 2;
  // A handful of descriptors for each process, however many the login shell's default allows.
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  if (role == "keep") {
    auto holdings = monitor::ReadHoldings(second);
    if (!holdings.ok()) return 1;
    monitor::RunKeeper(argv[0], sock::Fd(listener), *std::move(holdings));
  }
  if (role != "serve" || second < 0) return 2;
  prctl(PR_SET_NAME, "cri-sock-monitor");  // executed by its keeper's link in /proc, it would be called that
  auto server = monitor::Server::Open(argv[0], sock::Fd(listener), sock::Fd(second));
  if (!server.ok()) return 1;
  (*server)->Run();
  _exit(0);
}
