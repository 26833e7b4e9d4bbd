#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/base/atomic_file.h"
#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/text.h"
#include "runtime/container/plan.pb.h"
#include "runtime/monitor/client.h"

namespace sock::runtime::monitor {
namespace {

using ::testing::HasSubstr;

class MonitorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    char name[] = "/tmp/monitor_test.XXXXXX";
    directory_ = mkdtemp(name);
    identity_ = ProgramIdentity(program_);
    Connect();
  }

  void TearDown() override {
    if (!client_) return;
    auto list = List();
    for (const Entry& entry : list.entries()) Remove(entry.id());
    client_.reset();
    // Nothing to look after and no daemon: the monitor ends.
    pollfd ended{monitor_.pidfd.get(), POLLIN, 0};
    EXPECT_EQ(poll(&ended, 1, 10000), 1);
    EXPECT_TRUE(RemoveTree(directory_).ok());
  }

  void Connect() {
    auto client = Client::Open(
        directory_ + "/monitor.sock", program_, identity_,
        [this](const Exit& exit) {
          std::lock_guard lock(mutex_);
          exits_[exit.id()] = exit.code();
          changed_.notify_all();
        },
        [] {});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    client_->Deliver();
    Request hello;
    hello.mutable_hello()->set_version(kVersion);
    auto monitor = OpenPid(client_->Call(hello)->reply.pid());
    ASSERT_TRUE(monitor.ok());
    monitor_ = *std::move(monitor);
  }

  static Plan PlanFor(const std::string& script) {
    Plan plan;
    for (const char* arg : {"/bin/sh", "-c"}) plan.add_args(arg);
    plan.add_args(script);
    plan.add_env("PATH=/usr/bin:/bin");
    plan.set_cwd("/");
    plan.set_umask(022);
    return plan;
  }

  absl::StatusOr<Answer> MakeProcess(const std::string& id, const Plan& plan) {
    auto log = OpenPath(directory_ + "/" + id, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (!log.ok()) return log.status();
    Request request;
    request.mutable_create()->set_id(id);
    request.mutable_create()->set_plan(plan.SerializeAsString());
    request.mutable_create()->set_has_log(true);
    int fd = log->get();
    return client_->Call(request, {&fd, 1});
  }

  absl::Status Start(const std::string& id) {
    Request request;
    request.mutable_start()->set_id(id);
    return client_->Call(request).status();
  }
  void Remove(const std::string& id) {
    Request request;
    request.mutable_remove()->set_id(id);
    EXPECT_TRUE(client_->Call(request).ok());
  }
  Reply List() {
    Request request;
    request.mutable_list();
    auto answer = client_->Call(request);
    return answer.ok() ? answer->reply : Reply();
  }
  int WaitExit(const std::string& id) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(10), [&] { return exits_.contains(id); })) return -1;
    return exits_[id];
  }

  static void KillAndWait(const PidRef& process) {
    ASSERT_TRUE(SendSignal(process, SIGKILL).ok());
    pollfd ended{process.pidfd.get(), POLLIN, 0};
    ASSERT_EQ(poll(&ended, 1, 10000), 1);
  }
  static void KillAndWait(pid_t pid) {
    auto process = OpenPid(pid);
    ASSERT_TRUE(process.ok()) << process.status();
    KillAndWait(*process);
  }
  // The first child of the monitor.
  pid_t LogWriter() const {
    const pid_t pid =
        atoi(ReadFile(Cat("/proc/", monitor_.pid, "/task/", monitor_.pid, "/children"))->c_str());
    EXPECT_EQ(*ReadFile(Cat("/proc/", pid, "/comm")), "sock-logger\n");
    return pid;
  }

  // Kills it, waits for its end and connects to the one that takes its place.
  void KillMonitor(const PidRef& process) {
    KillAndWait(process);
    client_.reset();
    Connect();
  }
  // What the log holds once it has `count` lines.
  std::string Lines(const std::string& id, long count) {
    std::string log;
    for (int i = 0; i < 2000 && std::count(log.begin(), log.end(), '\n') < count; ++i) {
      poll(nullptr, 0, 5);
      log = *ReadFile(directory_ + "/" + id);
    }
    return log;
  }
  void WriteFifo(const std::string& path) {
    Fd go(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(write(go.get(), "x\n", 2), 2);
  }

  // What the keeper of `process` runs: its path, with " (deleted)" where another file took that.
  static std::string KeepersProgram(const PidRef& process) {
    char target[PATH_MAX]{};
    EXPECT_GT(readlink(Cat("/proc/", ParentOf(process.pid), "/exe").c_str(), target, sizeof target - 1), 0);
    return target;
  }

  std::string directory_, program_ = MONITOR_PROGRAM, identity_;
  PidRef monitor_;
  std::unique_ptr<Client> client_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int> exits_;
};

TEST_F(MonitorTest, RunsOnlyAfterGoAndLogs) {
  Plan plan = PlanFor("echo out; echo err >&2; exit 3");
  plan.set_clone_flags(CLONE_NEWPID);
  auto made = MakeProcess("a", plan);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(*ReadFile(directory_ + "/a"), "");
  ASSERT_TRUE(Start("a").ok());
  EXPECT_EQ(WaitExit("a"), 3);
  EXPECT_EQ(Start("a").code(), absl::StatusCode::kFailedPrecondition);
  // The log writer works behind the exit; it ends once its pipes and the monitor's channel do.
  std::string log;
  for (int i = 0; i < 1000 && std::count(log.begin(), log.end(), '\n') < 2; ++i) {
    poll(nullptr, 0, 5);
    log = *ReadFile(directory_ + "/a");
  }
  EXPECT_THAT(log, HasSubstr("Z stdout F out\n"));
  EXPECT_THAT(log, HasSubstr("Z stderr F err\n"));
}

TEST_F(MonitorTest, WrongProgramLeavesNothing) {
  Plan plan = PlanFor("");
  plan.set_args(0, "/no/such/program");
  auto made = MakeProcess("a", plan);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kNotFound) << made.status();
  EXPECT_EQ(List().entries_size(), 0);
}

TEST_F(MonitorTest, ProcessesOutliveTheDaemonAndTellTheirExitLater) {
  ASSERT_TRUE(MakeProcess("a", PlanFor("exec sleep 600")).ok());
  ASSERT_TRUE(Start("a").ok());
  ASSERT_TRUE(MakeProcess("b", PlanFor("true")).ok());
  pid_t monitor = monitor_.pid;
  client_.reset();
  Connect();
  EXPECT_EQ(monitor_.pid, monitor);
  Reply list = List();
  ASSERT_EQ(list.entries_size(), 2);
  EXPECT_TRUE(list.entries(0).started());
  EXPECT_FALSE(list.entries(1).started());
  auto process = OpenPid(list.entries(0).pid(), list.entries(0).start_time());
  ASSERT_TRUE(process.ok()) << process.status();
  client_.reset();
  ASSERT_TRUE(SendSignal(*process, SIGKILL).ok());
  Connect();
  pollfd ended{process->pidfd.get(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 10000), 1);
  for (int i = 0; i < 1000 && !(list = List()).entries(0).has_exit(); ++i) poll(nullptr, 0, 5);
  EXPECT_EQ(list.entries(0).exit().code(), 128 + SIGKILL);
  EXPECT_FALSE(list.entries(0).acknowledged());
  EXPECT_TRUE(Start("b").ok());
  EXPECT_EQ(WaitExit("b"), 0);
}

TEST_F(MonitorTest, ExecJoinsThePidNamespaceAndGivesItsOutput) {
  Request request;
  request.mutable_create_namespaces()->set_id("pod");
  request.mutable_create_namespaces()->set_net(true);
  request.mutable_create_namespaces()->set_pid(true);
  auto namespaces = client_->Call(request);
  ASSERT_TRUE(namespaces.ok()) << namespaces.status();
  ASSERT_EQ(namespaces->fds.size(), 2u);
  Plan plan = PlanFor("echo $$; cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
  plan.set_join_pid_ns_fd(0);
  plan.set_net_ns(1);
  Request exec;
  exec.mutable_exec()->set_id("x");
  exec.mutable_exec()->set_plan(plan.SerializeAsString());
  int fds[] = {namespaces->fds[1].get(), namespaces->fds[0].get()};
  auto answer = client_->Call(exec, fds);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->fds.size(), 2u);
  EXPECT_EQ(WaitExit("x"), 0);
  char text[64]{};
  ASSERT_GT(read(answer->fds[0].get(), text, sizeof text - 1), 0);
  EXPECT_STREQ(text, "2\n0\n");
}

TEST_F(MonitorTest, AKilledLogWriterIsReplacedAndLosesNothing) {
  std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ASSERT_TRUE(MakeProcess("a", PlanFor("printf 'one\nhal'; read x <" + fifo + "; echo f")).ok());
  ASSERT_TRUE(Start("a").ok());
  EXPECT_THAT(Lines("a", 1), HasSubstr(" F one\n"));
  KillAndWait(LogWriter());
  WriteFifo(fifo);
  EXPECT_EQ(WaitExit("a"), 0);
  EXPECT_THAT(Lines("a", 2), HasSubstr(" F half\n"));
}

// The monitor learns of both by one epoll_wait(2), of the other one first.
TEST_F(MonitorTest, TheLogWriterDiesWithAnother) {
  std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ASSERT_TRUE(MakeProcess("a", PlanFor("exec sleep 600")).ok());
  ASSERT_TRUE(MakeProcess("b", PlanFor("read x <" + fifo + "; echo line")).ok());
  ASSERT_TRUE(Start("a").ok());
  ASSERT_TRUE(Start("b").ok());
  const Reply list = List();
  ASSERT_EQ(list.entries(0).id(), "a");
  const pid_t writer = LogWriter();
  ASSERT_TRUE(SendSignal(monitor_, SIGSTOP).ok());
  for (int i = 0;
       i < 1000 && ReadFile(Cat("/proc/", monitor_.pid, "/status"))->find("T (stopped)") == std::string::npos;
       ++i)
    poll(nullptr, 0, 5);
  KillAndWait(list.entries(0).pid());
  KillAndWait(writer);
  ASSERT_TRUE(SendSignal(monitor_, SIGCONT).ok());
  EXPECT_EQ(WaitExit("a"), 137);
  WriteFifo(fifo);
  EXPECT_EQ(WaitExit("b"), 0);
  EXPECT_THAT(Lines("b", 1), HasSubstr(" F line\n"));
}

TEST_F(MonitorTest, ALogIsReopenedOnceTheCallHasReturned) {
  std::string fifo = directory_ + "/fifo", log = directory_ + "/a";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ASSERT_TRUE(
      MakeProcess("a", PlanFor("exec 3<>" + fifo + "; echo one; while read x <&3; do echo more; done")).ok());
  ASSERT_TRUE(Start("a").ok());
  EXPECT_THAT(Lines("a", 1), HasSubstr(" F one\n"));
  for (int i = 0; i < 3; ++i) {
    std::filesystem::rename(log, Cat(log, i));
    auto file = OpenPath(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    ASSERT_TRUE(file.ok());
    Request request;
    request.mutable_reopen_log()->set_id("a");
    const int fd = file->get();
    auto answer = client_->Call(request, {&fd, 1});
    ASSERT_TRUE(answer.ok()) << answer.status();
    WriteFifo(fifo);
    EXPECT_THAT(Lines("a", 1), HasSubstr(" F more\n"));
    EXPECT_EQ(std::ranges::count(*ReadFile(Cat(log, i)), '\n'), 1);
    if (i == 1) KillMonitor(monitor_);  // its successor knows which file is the log
  }
}

// What a death of the monitor, of its keeper and an upgrade must not change.
class Successor : public MonitorTest {
 protected:
  void Prepare() {
    fifo_ = directory_ + "/fifo";
    ASSERT_EQ(mkfifo(fifo_.c_str(), 0600), 0);
    Plan plan = PlanFor("printf 'one\nhal'; read x <" + fifo_ + "; echo f; exit 7");
    plan.set_clone_flags(CLONE_NEWPID);
    ASSERT_TRUE(MakeProcess("a", plan).ok());
    ASSERT_TRUE(Start("a").ok());
    ASSERT_TRUE(MakeProcess("b", PlanFor("echo b; exit 3")).ok());
    EXPECT_THAT(Lines("a", 1), HasSubstr(" F one\n"));
    before_ = monitor_.pid;
  }
  // `orphans`: "a" and "b" are nobody's children of ours any more.
  void Check(bool orphans = false) {
    EXPECT_NE(monitor_.pid, before_);
    Reply list = List();
    ASSERT_EQ(list.entries_size(), 2);
    EXPECT_TRUE(list.entries(0).started());
    EXPECT_FALSE(list.entries(0).has_exit());
    EXPECT_FALSE(list.entries(1).started());
    ASSERT_TRUE(OpenPid(list.entries(0).pid(), list.entries(0).start_time()).ok());
    // One that waits at its barrier can still be started, and made again by who did not hear of it.
    auto again = MakeProcess("b", PlanFor(""));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->reply.pid(), list.entries(1).pid());
    EXPECT_TRUE(Start("b").ok());
    ExpectExit("b", 3, orphans);
    WriteFifo(fifo_);
    ExpectExit("a", 7, orphans);
    // Another program might not understand what is in hand: it is written before that comes.
    if (handed_over_)
      EXPECT_THAT(Lines("a", 3), ::testing::AllOf(HasSubstr(" P hal\n"), HasSubstr(" F f\n")));
    else
      EXPECT_THAT(Lines("a", 2), HasSubstr(" F half\n"));
    EXPECT_THAT(Lines("b", 1), HasSubstr(" F b\n"));
  }
  // The kernel tells the exit of an orphan from 6.15 on; before, whoever reaps it may have been faster.
  void ExpectExit(const std::string& id, int code, bool orphan) {
    const int exit = WaitExit(id);
    Reply list = List();
    auto entry = std::ranges::find(list.entries(), id, [](const Entry& one) { return one.id(); });
    ASSERT_NE(entry, list.entries().end());
    if (orphan && KernelVersion() < std::pair(6, 15) && exit == 255) {
      EXPECT_NE(entry->exit().unknown(), "");
      return;
    }
    EXPECT_EQ(exit, code) << id;
    EXPECT_EQ(entry->exit().unknown(), "");
  }
  static std::pair<int, int> KernelVersion() {
    utsname names;
    std::pair<int, int> version;
    EXPECT_EQ(uname(&names), 0);
    EXPECT_EQ(sscanf(names.release, "%d.%d", &version.first, &version.second), 2) << names.release;
    return version;
  }
  pid_t before_ = 0;
  bool handed_over_ = false;
  std::string fifo_;
};

TEST_F(Successor, TakesOverFromAKilledMonitor) {
  Prepare();
  KillMonitor(monitor_);
  Check();
}

TEST_F(Successor, TakesOverTwice) {
  Prepare();
  KillMonitor(monitor_);
  KillMonitor(monitor_);
  Check();
}

TEST_F(Successor, TakesOverWhenTheKeeperIsKilled) {
  Prepare();
  auto keeper = OpenPid(ParentOf(monitor_.pid));
  ASSERT_TRUE(keeper.ok());
  ASSERT_EQ(*ReadFile(Cat("/proc/", keeper->pid, "/comm")), "cri-sock-keeper\n");
  KillMonitor(*keeper);
  EXPECT_EQ(ParentOf(monitor_.pid), before_);  // it is the keeper now
  Check();
}

TEST_F(Successor, TellsTheExitOfAnOrphanOfBoth) {
  Prepare();
  KillMonitor(monitor_);  // so that the processes are the keeper's children
  auto keeper = OpenPid(ParentOf(monitor_.pid));
  ASSERT_TRUE(keeper.ok());
  before_ = monitor_.pid;
  KillMonitor(*keeper);
  Check(true);
}

// The same, with a copy of the program that others can replace.
class Upgrade : public Successor {
 protected:
  void SetUp() override {
    MonitorTest::SetUp();
    if (IsSkipped()) return;
    client_.reset();
    Install(directory_ + "/program");
    Connect();
    Prepare();
    keeper_ = ParentOf(before_);
  }
  void Install(const std::string& path) {
    program_ = path;
    ASSERT_TRUE(std::filesystem::copy_file(MONITOR_PROGRAM, directory_ + "/new"));
    std::filesystem::rename(directory_ + "/new", path);
    identity_ = ProgramIdentity(path);
  }
  void Reconnect() {
    handed_over_ = true;
    client_.reset();
    Connect();
    EXPECT_EQ(ParentOf(monitor_.pid), keeper_);  // execve(2): the same process
  }
  pid_t keeper_ = 0;
};

TEST_F(Upgrade, InPlace) {
  Install(program_);
  Reconnect();
  EXPECT_EQ(KeepersProgram(monitor_), program_);
  Check();
}

TEST_F(Upgrade, ToAnotherPath) {
  ASSERT_TRUE(std::filesystem::remove(program_));
  Install(directory_ + "/elsewhere");
  Reconnect();
  EXPECT_EQ(KeepersProgram(monitor_), program_);
  Check();
}

TEST_F(Upgrade, IsNoCrash) {
  const std::string identity = identity_;
  Install(program_);
  identity_ = identity;  // this daemon is the one from before
  KillMonitor(monitor_);
  EXPECT_EQ(KeepersProgram(monitor_), program_ + " (deleted)");
  Check();
}

TEST_F(Upgrade, ToWhatDoesNotRunIsRefused) {
  for (const char* text : {"", "#!/bin/false\n",
                           "\x7f"
                           "ELF, the first half"}) {
    const std::string bad = directory_ + "/bad";
    ASSERT_TRUE(WriteFileAtomic(bad, text, Durability::kProcess, 0700).ok());
    client_.reset();
    auto client = Client::Open(
        directory_ + "/monitor.sock", bad, ProgramIdentity(bad), [](const Exit&) {}, [] {});
    EXPECT_EQ(client.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(client.status().message(), HasSubstr("does not become `" + bad + "`"));
  }
  Reconnect();
  EXPECT_EQ(KeepersProgram(monitor_), program_);
  Check();
}

TEST_F(Successor, HearsWhatEndedBetween) {
  Prepare();
  auto process = OpenPid(List().entries(0).pid());
  ASSERT_TRUE(process.ok());
  // Stopped, the monitor notes nothing: the keeper is the one that does.
  ASSERT_TRUE(SendSignal(monitor_, SIGSTOP).ok());
  ASSERT_TRUE(SendSignal(*process, SIGKILL).ok());
  KillMonitor(monitor_);
  Reply list = List();
  for (int i = 0; i < 1000 && !(list = List()).entries(0).has_exit(); ++i) poll(nullptr, 0, 5);
  EXPECT_EQ(list.entries(0).exit().code(), 128 + SIGKILL);
  EXPECT_EQ(list.entries(0).exit().unknown(), "");
}

TEST_F(Successor, EndsTheExecutionsOfTheDead) {
  Plan plan = PlanFor("exec sleep 600");
  Request exec;
  exec.mutable_exec()->set_id("x");
  exec.mutable_exec()->set_plan(plan.SerializeAsString());
  auto answer = client_->Call(exec);
  ASSERT_TRUE(answer.ok()) << answer.status();
  auto process = OpenPid(answer->reply.pid());
  ASSERT_TRUE(process.ok());
  KillMonitor(monitor_);
  pollfd ended{process->pidfd.get(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 10000), 1);
  EXPECT_EQ(List().entries_size(), 0);
}

}  // namespace
}  // namespace sock::runtime::monitor
