// Containers forked from Zygotes, with a real interpreter in a real image.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "test/e2e/node.h"
#include "test/e2e/python.h"
#include "test/e2e/zygote_fixture.h"

namespace sock::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

// What an import saw of the machine, kept for the program that is forked afterwards.
constexpr char kSpy[] = R"(
import os, socket
def attempt(f):
    try: return repr(f())
    except OSError as e: return type(e).__name__
seen = {
    'uid': os.getuid(),
    'caps': [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapPrm', 'CapEff', 'CapBnd'))],
    'links': sorted(n for _, n in socket.if_nameindex()),
    'write': attempt(lambda: open('/usr/lib/python3/dist-packages/x', 'w')),
    'others': [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (os.getpid(), os.getppid())],
    'mount': attempt(lambda: os.mkdir('/mnt2')),
    'kill': attempt(lambda: os.kill(os.getppid(), 0)),
}
)";
// What a process can tell of itself that must not depend on how it was started.
constexpr char kSelf[] = R"(
import os
st = dict(l.rstrip('\n').split(':\t', 1) for l in open('/proc/self/status') if ':\t' in l)
for k in ('Name', 'Umask', 'Pid', 'PPid', 'Uid', 'Gid', 'Groups', 'NSpid', 'NSpgid', 'NSsid', 'Threads', 'SigBlk', 'SigIgn', 'SigCgt',
          'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp', 'Cpus_allowed'):
    print(k, st[k])
print(open('/proc/self/cmdline').read().split('\0'), open('/proc/self/comm').read())
print(sorted(l for l in open('/proc/self/environ').read().split('\0') if not l.startswith('HOSTNAME')))
print(open('/proc/self/uid_map').read().split()[0::2], open('/proc/self/oom_score_adj').read(), os.readlink('/proc/self/exe'))
print([(f, os.readlink('/proc/self/fd/' + f).split(':')[0]) for f in os.listdir('/proc/self/fd') if int(f) < 3])
print(sorted((l.split()[4], l.split()[5]) for l in open('/proc/self/mountinfo')))
print([l.split(':')[2] for l in open('/proc/self/cgroup')], os.getcwd(), sorted(os.environ))
child = os.fork()
if child == 0: os._exit(0)
print('child', child, os.waitpid(child, 0)[1])
for f in (lambda: os.unshare(0x20000) if hasattr(os, 'unshare') else __import__('ctypes').CDLL(None).unshare(0x20000),
          lambda: open('/proc/sys/kernel/hostname', 'w'), lambda: os.listdir('/proc/acpi'), lambda: os.mknod('/tmp/n', 0o20666, 0x103)):
    try: print(f())
    except OSError as e: print(e.errno)
)";

class ZygoteTest : public ZygoteFixture {
 protected:
  static void SetUpTestSuite() {
    node_ = new Node;
    image_ =
        PushPython(*node_, {{"spy", kSpy},
                            {"threads",
                             "import threading, time\n"
                             "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"},
                            {"sockets", "import socket\nkept = socket.socketpair()\n"},
                            {"crashes", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"},
                            {"raises", "raise RuntimeError('not today')\n"},
                            {"later",
                             "import os, time, _thread\n"
                             "os.register_at_fork(after_in_child=lambda: os.getpid() == 1 and "
                             "_thread.start_new_thread(time.sleep, (1000,)))\n"},
                            {"forks",
                             "import os\n"
                             "os.register_at_fork(after_in_child=lambda: os.getpid() == 1 and "
                             "os.spawnv(os.P_NOWAIT, '/usr/bin/python3', ['python3', '-c', 'import time; "
                             "time.sleep(1000)']))\n"}});
    ASSERT_FALSE(image_.empty());
  }
};

TEST_F(ZygoteTest, SecondPodIsForkedAndRunsLikeThePlainOne) {
  const std::vector<std::string> command{"python3", "-c", kSelf};
  const Run first = RunOne(command, {});
  EXPECT_FALSE(first.forked);
  EXPECT_THAT(first.reason, HasSubstr("being made"));
  const Run forked = RunForked(command, {});
  ASSERT_TRUE(forked.forked) << forked.reason;
  EXPECT_EQ(forked.exit, 0);
  const Run plain = RunOne(command, {{"zygote.cri-sock.io", "off"}});
  EXPECT_FALSE(plain.forked);
  EXPECT_EQ(plain.exit, 0);
  EXPECT_EQ(forked.log, plain.log);
}

TEST_F(ZygoteTest, ExitCodesSignalsAndExec) {
  EXPECT_EQ(RunForked({"python3", "-c", "import sys; sys.exit(3)"}, {}).exit, 3);
  EXPECT_EQ(RunForked({"python3", "-c", "raise ValueError('x')"}, {}).exit, 1);
  EXPECT_EQ(RunForked({"python3", "-c", "import os; os._exit(9)"}, {}).exit, 9);
  EXPECT_EQ(RunForked({"python3", "/there/is/none.py"}, {}).exit, 2);
  Run run = RunForked({"python3", "-c", "import time; time.sleep(1000)"}, {}, false);
  ASSERT_TRUE(run.forked) << run.reason;
  api::ExecSyncResponse said = node_->Exec(
      run.container, {"python3", "-c", "import os; print(open('/proc/1/comm').read(), os.getuid())"}, 10);
  EXPECT_EQ(said.stdout(), "python3\n 0\n");
  EXPECT_EQ(node_->Status(run.container).state(), api::CONTAINER_RUNNING);
}

TEST_F(ZygoteTest, AnImportHasNothingOfTheHost) {
  const Run run =
      RunForked({"python3", "-c", "import spy, sys; print(spy.seen)"}, {{"imports.cri-sock.io", "spy"}});
  ASSERT_TRUE(run.forked) << run.reason;
  EXPECT_THAT(run.log, HasSubstr("'caps': ['0000000000000000', '0000000000000000', '0000000000000000']"));
  EXPECT_THAT(run.log, HasSubstr("'links': ['lo']"));
  EXPECT_THAT(run.log, HasSubstr("'write': 'OSError'"));  // a read-only file system
  EXPECT_THAT(run.log, HasSubstr("'others': []"));
  EXPECT_THAT(run.log, HasSubstr("'kill': 'PermissionError'"));
  EXPECT_THAT(run.log, testing::Not(HasSubstr("'uid': 0,")));
}

TEST_F(ZygoteTest, WhatIsNotForkableStartsPlainlyAndSaysWhy) {
  for (auto [module, reason] : {std::pair{"threads", "thread"},
                                {"sockets", "socket"},
                                {"crashes", "import"},
                                {"raises", "not today"},
                                {"later", "forked process"},
                                {"forks", "process"},
                                {"nowhere", "nowhere"}}) {
    const Run run = RunForked({"python3", "-c", "print('it runs')"}, {{"imports.cri-sock.io", module}});
    EXPECT_FALSE(run.forked) << module;
    EXPECT_THAT(run.reason, HasSubstr(reason)) << module;
    EXPECT_EQ(run.exit, 0) << module;
    EXPECT_THAT(run.log, HasSubstr("it runs")) << module;
  }
  EXPECT_THAT(RunOne({"python3", "-i", "-c", "1"}, {}).reason, testing::Not(IsEmpty()));
}

TEST_F(ZygoteTest, AnnotationsAreReadOrRefused) {
  Run run = RunOne({"python3", "-c", "1"}, {{"packages.cri-sock.io", "numpy=="}});
  EXPECT_EQ(run.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(run.status.error_message(), HasSubstr("packages.cri-sock.io"));
  run = RunOne({"python3", "-c", "1"}, {{"zygote.cri-sock.io", "perhaps"}});
  EXPECT_EQ(run.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(run.status.error_message(), HasSubstr("zygote.cri-sock.io"));
  run = RunOne({"/usr/bin/python3", "-i"}, {{"zygote.cri-sock.io", "required"}});
  EXPECT_EQ(run.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ZygoteTest, AKilledZygoteTakesNothingWithItAndReturns) {
  const std::vector<std::string> sleeps{"python3", "-c", "import time; time.sleep(1000)"};
  Run lives = RunForked(sleeps, {}, false);
  ASSERT_TRUE(lives.forked) << lives.reason;
  std::vector<pid_t> before = ZygotePids();
  ASSERT_FALSE(before.empty());
  for (pid_t pid : before) kill(pid, SIGKILL);
  EXPECT_EQ(RunOne({"python3", "-c", "print('runs')"}, {}).exit, 0);
  Run again;  // the first may meet a parked process that has just been killed
  EXPECT_TRUE(Until([&] {
    return (again = RunForked({"python3", "-c", "print('runs')"}, {})).forked;
  })) << again.reason;
  EXPECT_EQ(node_->Status(lives.container).state(), api::CONTAINER_RUNNING);
}

// Its parent is the monitor, which the kernel then makes its tracer.
TEST_F(ZygoteTest, WhoAsksItsParentToTraceItGoesOn) {
  const std::vector<std::string> command{"python3", "-c",
                                         "import ctypes, os, signal\n"
                                         "signal.signal(signal.SIGUSR1, lambda *_: print('signal'))\n"
                                         "print(ctypes.CDLL(None).ptrace(0, 0, 0, 0))\n"
                                         "os.kill(os.getpid(), signal.SIGUSR1)\n"
                                         "raise SystemExit(7)\n"};
  for (const char* mode : {"off", "auto"}) {
    const Run run = RunForked(command, {{"zygote.cri-sock.io", mode}});
    EXPECT_EQ(run.forked, mode == std::string("auto")) << run.reason;
    EXPECT_EQ(run.log, "stdout F 0\nstdout F signal\n");
    EXPECT_EQ(run.exit, 7);
  }
}

TEST_F(ZygoteTest, ForkedContainersOutliveTheDaemon) {
  Run run = RunForked({"python3", "-c", "import time; time.sleep(1000)"}, {}, false);
  ASSERT_TRUE(run.forked) << run.reason;
  node_->KillDaemon(SIGKILL);
  node_->StartDaemon();
  EXPECT_EQ(node_->Status(run.container).state(), api::CONTAINER_RUNNING);
  EXPECT_EQ(RunOne({"python3", "-c", "print('runs')"}, {}).exit, 0);
  EXPECT_TRUE(RunForked({"python3", "-c", "print('runs')"}, {}).forked);
}

TEST_F(ZygoteTest, SockctlListsThemAndSaysWhyNot) {
  const Run plain = RunOne({"python3", "-i", "-c", "1"}, {});
  const Run forked = RunForked({"python3", "-c", "1"}, {});
  ASSERT_TRUE(forked.forked) << forked.reason;
  const std::string key = Info(forked.container).at("zygote");
  EXPECT_EQ(node_->Sockctl("why " + forked.container), Cat("forked from Zygote ", key, "\n"));
  EXPECT_EQ(node_->Sockctl("why " + plain.container), Cat("started plainly: ", plain.reason, "\n"));

  const nlohmann::json all = nlohmann::json::parse(node_->Sockctl("zygotes --json"), nullptr, false);
  ASSERT_TRUE(all.is_array());
  auto one = std::ranges::find_if(
      all, [&](const nlohmann::json& z) { return z.at("key") == key || z.at("id") == key; });
  ASSERT_NE(one, all.end()) << key << " is not in " << all.dump();
  EXPECT_GE(one->at("hits"), 1);
  const std::string table = node_->Sockctl("zygotes");
  EXPECT_THAT(table, testing::StartsWith("KEY "));
  EXPECT_EQ(std::ranges::count(table, '\n'), static_cast<long>(all.size()) + 1);
  EXPECT_THAT(table, HasSubstr("\n" + one->at("key").get<std::string>().substr(0, 12) + " "));
}

}  // namespace
}  // namespace sock::test
