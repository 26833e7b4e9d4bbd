#include "runtime/monitor/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <set>
#include <utility>

#include "runtime/base/channel.h"
#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime::monitor {
namespace {

constexpr int64_t kNsPerSecond = 1000000000;

int64_t Now(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

void Inherit(int fd) { fcntl(fd, F_SETFD, 0); }

void Execute(const std::string& file, const std::string& program, const std::vector<std::string>& args) {
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  execv(file.c_str(), argv.data());
}

// Whether the file is a program of ours that runs here: without arguments it ends with status 2. One that
// lacks a library, or is half written, would take every container with it.
bool Runs(const std::string& file) {
  const pid_t child = fork();
  if (child == 0) {
    Execute(file, file, {});
    _exit(127);
  }
  int status = -1;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 2;
}

class Keeper {
 public:
  Keeper(const std::string& program, Fd listener, Holdings holdings)
      : program_(program), listener_(std::move(listener)), holdings_(std::move(holdings)) {}

  [[noreturn]] void Run() {
    prctl(PR_SET_NAME, "cri-sock-keeper");
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT}) ::signal(signal, SIG_IGN);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, nullptr);
    signals_ = Fd(signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
    while (true) {
      int64_t begin = Now(CLOCK_MONOTONIC);
      if (absl::Status status = StartMonitor(); status.ok()) Look();
      if (ended_ == 0 && !channel_.valid()) _exit(0);
      // Where that fails this one goes on, and the daemon says so.
      if (const std::string next = std::exchange(next_, ""); ended_ == kUpgradeStatus && Runs(next))
        BecomeKeeper(next, next, listener_, holdings_).IgnoreError();
      // One that dies at once, again and again, must not take the whole machine.
      short_lives_ = Now(CLOCK_MONOTONIC) - begin < kNsPerSecond ? short_lives_ + 1 : 0;
      if (short_lives_ > 2) poll(nullptr, 0, 100);
    }
  }

 private:
  absl::Status StartMonitor() {
    ended_ = -1;
    ASSIGN_OR_RETURN(ChannelPair channel, MakeChannel());
    monitor_ = fork();
    if (monitor_ < 0) return ErrnoStatus(errno, "fork the monitor");
    if (monitor_ == 0) {
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      Inherit(listener_.get());
      Inherit(channel.b.get());
      Execute(kOwnImage, program_, {"serve", Cat(listener_.get()), Cat(channel.b.get())});
      _exit(127);
    }
    channel_ = std::move(channel.a);
    channel.b.Reset();
    unsent_.clear();
    for (const auto& [id, held] : holdings_) {
      std::map<Kept::Descriptor, int> fds;
      for (const auto& [kind, fd] : held.fds) fds[kind] = fd.get();
      if (!SendKept(channel_.get(), held.kept, fds).ok()) break;  // it died; Look tells how
    }
    KeeperMessage complete;
    complete.set_complete(true);
    SendMessage(channel_.get(), complete.SerializeAsString()).IgnoreError();
    fcntl(channel_.get(), F_SETFL, O_NONBLOCK);
    return absl::OkStatus();
  }

  // Until the monitor has ended and its last words are heard.
  void Look() {
    while (ended_ < 0 || channel_.valid()) {
      pollfd polls[2] = {{signals_.get(), POLLIN, 0},
                         {channel_.get(), static_cast<short>(POLLIN | (unsent_.empty() ? 0 : POLLOUT)), 0}};
      if (poll(polls, 2, -1) < 0) continue;
      if (polls[1].revents & POLLOUT) Tell();
      if (polls[1].revents & ~POLLOUT) Listen();
      if (polls[0].revents) {
        signalfd_siginfo info;
        while (read(signals_.get(), &info, sizeof info) > 0) {
        }
      }
      Reap();
    }
  }

  void Listen() {
    while (channel_.valid()) {
      absl::StatusOr<Message> message = RecvMessage(channel_.get());
      if (ErrnoOf(message.status()) == EAGAIN) return;
      KeeperMessage said;
      if (!message.ok() || !said.ParseFromString(message->data)) {
        channel_.Reset();
        // It must not go on without a keeper that hears it.
        if (ended_ < 0) kill(monitor_, SIGKILL);
        return;
      }
      if (said.has_keep())
        TakeKept(std::move(*said.mutable_keep()), std::move(message->fds), holdings_).IgnoreError();
      else if (said.kind_case() == KeeperMessage::kForget)
        holdings_.erase(said.forget());
      else if (said.kind_case() == KeeperMessage::kUpgrade)
        next_ = said.upgrade().empty() ? program_ : said.upgrade();
    }
  }

  void Reap() {
    while (true) {
      siginfo_t info{};
      // Reaped only after it is noted: who looks for it when this process dies here finds it still.
      if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) return;
      if (info.si_code == CLD_TRAPPED) {
        LetTraced(info);
        continue;
      }
      if (info.si_pid == monitor_) {
        ended_ = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
        monitor_ = 0;
      } else {
        Listen();  // the monitor may have noted the exit itself, and died before it reaped
        for (auto& [id, held] : holdings_) {
          if (held.kept.pid() != info.si_pid || held.kept.has_exit()) continue;
          Exit& exit = *held.kept.mutable_exit();
          exit.set_id(id);
          exit.set_code(info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status);
          exit.set_finished_at_ns(Now(CLOCK_REALTIME));
          unsent_.insert(id);
        }
        Tell();
      }
      waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED | WNOHANG);
    }
  }

  // Never waits for the monitor, which may be waiting for us.
  void Tell() {
    while (channel_.valid() && !unsent_.empty()) {
      auto held = holdings_.find(*unsent_.begin());
      if (held != holdings_.end()) {
        Kept news;
        news.set_id(held->first);
        news.set_pid(held->second.kept.pid());
        *news.mutable_exit() = held->second.kept.exit();
        if (ErrnoOf(SendKept(channel_.get(), news, {})) == EAGAIN) return;
      }
      unsent_.erase(unsent_.begin());
    }
  }

  const std::string program_;
  Fd listener_, signals_, channel_;
  Holdings holdings_;
  pid_t monitor_ = 0;
  int short_lives_ = 0;  // one after another
  int ended_ = -1;       // status of the monitor, 128 + signal when killed by one; -1 while it runs
  std::set<std::string> unsent_;
  std::string next_;  // what the monitor asked to be replaced by
};

}  // namespace

absl::Status SendKept(int channel, Kept kept, const std::map<Kept::Descriptor, int>& fds) {
  std::vector<int> numbers;
  for (const auto& [kind, fd] : fds) {
    kept.add_descriptors(kind);
    numbers.push_back(fd);
  }
  KeeperMessage message;
  *message.mutable_keep() = std::move(kept);
  return SendMessage(channel, message.SerializeAsString(), numbers);
}

absl::Status TakeKept(Kept kept, std::vector<Fd> fds, Holdings& holdings) {
  if (static_cast<size_t>(kept.descriptors_size()) != fds.size())
    return absl::InvalidArgumentError(Cat("keep `", kept.id(), "`: other descriptors came than it names"));
  Held& held = holdings[kept.id()];
  for (size_t i = 0; i < fds.size(); ++i) held.fds[kept.descriptors(static_cast<int>(i))] = std::move(fds[i]);
  kept.clear_descriptors();
  held.kept.MergeFrom(kept);
  return absl::OkStatus();
}

absl::Status BecomeKeeper(const std::string& file, const std::string& program, const Fd& listener,
                          const Holdings& holdings) {
  KeptState kept;
  for (const auto& [id, held] : holdings) {
    KeptState::Held& one = *kept.add_held();
    *one.mutable_kept() = held.kept;
    for (const auto& [kind, fd] : held.fds) {
      Inherit(fd.get());
      one.mutable_kept()->add_descriptors(kind);
      one.add_numbers(fd.get());
    }
  }
  Fd state(memfd_create("cri-sock-keeper", MFD_CLOEXEC));
  if (!state.valid()) return ErrnoStatus(errno, "make a memfd");
  RETURN_IF_ERROR(WriteAll(state.get(), kept.SerializeAsString()));
  Inherit(state.get());
  Inherit(listener.get());
  Execute(file, program, {"keep", Cat(listener.get()), Cat(state.get())});
  return ErrnoStatus(errno, Cat("execute `", file, "`"));
}

absl::StatusOr<Holdings> ReadHoldings(int state) {
  Holdings holdings;
  if (state < 0) return holdings;
  Fd file(state);
  std::string text;
  char buffer[65536];
  for (off_t at = 0;;) {
    ssize_t n = pread(file.get(), buffer, sizeof buffer, at);
    if (n < 0) return ErrnoStatus(errno, "read the keeper's state");
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
    at += n;
  }
  KeptState read;
  if (!read.ParseFromString(text)) return absl::DataLossError("the keeper's state can't be read");
  for (KeptState::Held& one : *read.mutable_held()) {
    std::vector<Fd> fds;
    for (int number : one.numbers()) {
      fcntl(number, F_SETFD, FD_CLOEXEC);
      fds.emplace_back(number);
    }
    RETURN_IF_ERROR(TakeKept(std::move(*one.mutable_kept()), std::move(fds), holdings));
  }
  return holdings;
}

void RunKeeper(const std::string& program, Fd listener, Holdings holdings) {
  Keeper(program, std::move(listener), std::move(holdings)).Run();
}

}  // namespace sock::runtime::monitor
