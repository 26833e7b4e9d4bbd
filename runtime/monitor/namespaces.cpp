#include "runtime/monitor/namespaces.h"

#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <vector>

#include "runtime/base/channel.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime::monitor {
namespace {

absl::Status LoopbackUp() {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  request.ifr_name[0] = 'l', request.ifr_name[1] = 'o';
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (!socket.valid() || ioctl(socket.get(), SIOCSIFFLAGS, &request) < 0)
    return ErrnoStatus(errno, "bring up the loopback interface");
  return absl::OkStatus();
}

absl::Status WriteSysctl(std::string name, const std::string& value) {
  std::string path = name;
  if (path.find('/') == std::string::npos) std::replace(path.begin(), path.end(), '.', '/');
  absl::Status status = WriteExisting("/proc/sys/" + path, value);
  if (status.ok()) return status;
  int err = ErrnoOf(status);
  return WithCode(Annotate(status, Cat("sysctl `", name, "`")),
                  status.code() == absl::StatusCode::kNotFound || err == EINVAL || err == ENOENT
                      ? absl::StatusCode::kInvalidArgument
                      : absl::StatusCode::kInternal);
}

absl::Status WriteMap(const std::string& path, const google::protobuf::RepeatedPtrField<IdMapping>& map) {
  std::string text;
  for (const IdMapping& one : map) text += Cat(one.container_id(), " ", one.host_id(), " ", one.size(), "\n");
  absl::Status status = WriteExisting(path, text);
  int err = ErrnoOf(status);
  return err == EINVAL || err == EPERM ? WithCode(status, absl::StatusCode::kInvalidArgument) : status;
}

// ping_group_range takes only groups that the user namespace has.
std::string PingGroups(const CreateNamespaces& request) {
  for (const IdMapping& one : request.gid_mappings())
    if (one.container_id() == 0 && one.size() > 0) return Cat("0 ", std::min(one.size() - 1, 2147483647u));
  return "0 2147483647";
}

// Waits for the mappings, and becomes the root that they make, who then owns what is made.
absl::Status EnterUserNamespace(int channel) {
  ASSIGN_OR_RETURN_AS(Message written, RecvMessage(channel), "wait for the user namespace's mappings");
  if (setgroups(0, nullptr) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
    return ErrnoStatus(errno, "become the user namespace's root");
  return absl::OkStatus();
}

absl::Status Make(const CreateNamespaces& request, std::vector<Fd>& fds) {
  int flags = (request.net() ? CLONE_NEWNET : 0) | (request.ipc() ? CLONE_NEWIPC : 0) |
              (request.uts() ? CLONE_NEWUTS : 0);
  if (unshare(flags) < 0) return ErrnoStatus(errno, "unshare namespaces");
  std::map<std::string, std::string> sysctls;
  if (request.net()) {
    RETURN_IF_ERROR(LoopbackUp());
    // So pods need neither CAP_NET_BIND_SERVICE nor CAP_NET_RAW for low ports and ping.
    sysctls["net.ipv4.ip_unprivileged_port_start"] = "0";
    sysctls["net.ipv4.ping_group_range"] = PingGroups(request);
  }
  for (const auto& [name, value] : request.sysctls()) sysctls[name] = value;
  for (const auto& [name, value] : sysctls) RETURN_IF_ERROR(WriteSysctl(name, value));
  const std::pair<bool, const char*> kinds[] = {{request.net(), "net"},
                                                {request.ipc(), "ipc"},
                                                {request.uts(), "uts"},
                                                {request.pid(), "pid"},
                                                {request.uid_mappings_size() > 0, "user"}};
  for (auto [asked, kind] : kinds) {
    if (!asked) continue;
    ASSIGN_OR_RETURN(Fd fd, OpenPath(Cat("/proc/self/ns/", kind), O_RDONLY));
    fds.push_back(std::move(fd));
  }
  return absl::OkStatus();
}

// PID 1 of a pod's PID namespace: it waits for whom nobody waits, until it is killed. It begins once the
// monitor has noted it: one that no successor of the monitor knows of would live for ever.
[[noreturn]] void Init(int channel) {
  if (!RecvMessage(channel).ok()) _exit(1);
  prctl(PR_SET_NAME, "sock-init");
  setsid();
  if (chdir("/") < 0) _exit(1);
  close(channel);
  close_range(3, ~0U, 0);
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_SETMASK, &child, nullptr);
  while (true) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    sigwaitinfo(&child, nullptr);
  }
}

}  // namespace

absl::Status WriteMappings(const CreateNamespaces& request, pid_t pid) {
  RETURN_IF_ERROR_AS(WriteMap(Cat("/proc/", pid, "/gid_map"), request.gid_mappings()),
                     "gids of user namespace");
  return Annotate(WriteMap(Cat("/proc/", pid, "/uid_map"), request.uid_mappings()), "uids of user namespace");
}

void MakeNamespaces(const CreateNamespaces& request, uint64_t serial, int channel) {
  std::vector<Fd> fds;
  absl::Status status;
  if (request.uid_mappings_size() > 0) status = EnterUserNamespace(channel);
  if (status.ok()) status = Make(request, fds);
  FromMonitor from;
  Reply& reply = *from.mutable_reply();
  reply.set_serial(serial);
  std::vector<int> numbers;
  if (status.ok()) {
    for (const Fd& fd : fds) numbers.push_back(fd.get());
  } else {
    reply.set_code(static_cast<int>(status.code()));
    reply.set_message(std::string(status.message()));
    reply.set_errno_value(ErrnoOf(status));
  }
  bool sent = SendMessage(channel, from.SerializeAsString(), numbers).ok();
  if (request.pid() && status.ok() && sent) Init(channel);
  _exit(status.ok() ? 0 : 1);
}

}  // namespace sock::runtime::monitor
