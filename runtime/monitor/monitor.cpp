// cri-sock-monitor LISTENER: the daemon starts it with a listening socket as descriptor LISTENER.
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>

#include "runtime/monitor/server.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  int listener = atoi(argv[1]);
  if (listener < 3 || fcntl(listener, F_SETFD, FD_CLOEXEC) < 0) return 2;
  close_range(static_cast<unsigned>(listener) + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  if (chdir("/") < 0) return 1;
  auto server = sock::runtime::monitor::Server::Open(sock::Fd(listener));
  if (!server.ok()) return 1;
  (*server)->Run();
  _exit(0);
}
