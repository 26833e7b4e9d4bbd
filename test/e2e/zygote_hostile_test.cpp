// Packages that turn on the helper they are imported by: whatever one does between fork and start, the pod
// that asked for it starts plainly and says why, or fails by itself, and nobody else notices.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "runtime/base/path.h"
#include "test/e2e/zygote_fixture.h"

namespace sock::test {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

// The helper's own globals, and a way to put something in the place of one of them.
constexpr char kHostile[] = R"(
import os, sys
frame = sys._getframe()
while frame.f_globals.get('__name__') != '<zygote>': frame = frame.f_back
helper = frame.f_globals
del frame
Plan, Zygote = helper['Plan'], helper['Zygote']
def around(owner, name):
    def put(function):
        inner = owner[name] if isinstance(owner, dict) else getattr(owner, name)
        def outer(*arguments): return function(inner, *arguments)
        if isinstance(owner, dict): owner[name] = outer
        else: setattr(owner, name, outer)
    return put
)";
constexpr char kImport[] = "from hostile import *\n";

struct Package {
  const char *name, *source, *reason;
  bool unconfined = false;
};
constexpr Package kPackages[] = {
    {"keeps_capabilities", "Plan.capabilities = lambda self, extra: None\n", "Cap"},
    {"keeps_bounding_set",
     "@around(helper, 'prctl_long')\n"
     "def prctl(inner, op, *rest): return 0 if op == 24 else inner(op, *rest)\n",
     "CapBnd"},
    {"gains_privileges",
     "@around(helper, 'prctl_long')\n"
     "def prctl(inner, op, *rest): return 0 if op == 38 else inner(op, *rest)\n",
     "NoNewPrivs", true},
    {"skips_filter",
     "@around(helper, 'syscall')\n"
     "def syscall(inner, number, *rest): return 0 if number == 317 else inner(number, *rest)\n",
     "number of seccomp filters"},
    {"other_filter",
     "import ctypes\n"
     "allow = (6).to_bytes(2, 'little') + bytes(2) + (0x7fff0000).to_bytes(4, 'little')\n"
     "kept = ctypes.create_string_buffer(allow, 8)\n"
     "program = (1).to_bytes(8, 'little') + ctypes.addressof(kept).to_bytes(8, 'little')\n"
     "@around(helper, 'syscall')\n"
     "def syscall(inner, number, op, flags, data, *rest):\n"
     "    return inner(number, op, flags, program if number == 317 else data, *rest)\n",
     "another seccomp filter"},
    {"keeps_descriptor",
     "@around(Plan, 'paths')\n"
     "def paths(inner, self): inner(self); os.dup2(1, 77)\n",
     "descriptor 77"},
    {"swaps_descriptor",
     "@around(Plan, 'paths')\n"
     "def paths(inner, self): inner(self); os.dup2(os.open('/dev/null', os.O_RDWR), 0)\n",
     "descriptor"},
    {"starts_thread",
     "import _thread, time\n"
     "@around(Plan, 'paths')\n"
     "def paths(inner, self): inner(self); _thread.start_new_thread(time.sleep, (1000,))\n",
     "threads"},
    {"starts_process",
     "import time\n"
     "@around(Plan, 'paths')\n"
     "def paths(inner, self):\n"
     "    inner(self)\n"
     "    if os.fork() == 0: time.sleep(1000)\n",
     "processes"},
    {"leaves_companion",  // in the Zygote's cgroup, in the container's PID namespace
     "import time\n"
     "@around(Zygote, 'park')\n"
     "def park(inner, self, *rest):\n"
     "    if os.fork() == 0:\n"
     "        os.closerange(0, 100)\n"
     "        time.sleep(1000)\n"
     "    return inner(self, *rest)\n",
     "another process"},
    {"mounts_early",  // before it gives up its capabilities
     "import ctypes\n"
     "@around(Plan, 'credentials')\n"
     "def credentials(inner, self):\n"
     "    if ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None): os.abort()\n"
     "    inner(self)\n",
     "changed its mounts", true},
    {"changes_root",
     "@around(Plan, 'credentials')\n"
     "def credentials(inner, self): os.chroot('/tmp'); os.chdir('/'); inner(self)\n",
     "another root"},
    {"keeps_folder",
     "kept = os.open('/tmp', os.O_PATH)\n"
     "os.dup2(kept, 50); os.close(kept)\n"
     "@around(helper, 'close_others')\n"
     "def close_others(inner, *rest): os.fchdir(50); inner(*rest)\n",
     "descriptor 50 left open"},
    {"keeps_folder_later",
     "@around(Zygote, 'park')\n"
     "def park(inner, self, *rest):\n"
     "    kept = os.open('/tmp', os.O_PATH)\n"
     "    os.dup2(kept, 50); os.close(kept)\n"
     "    return inner(self, *rest)\n"
     "@around(helper, 'close_others')\n"
     "def close_others(inner, channel):\n"
     "    os.closerange(3, channel); os.closerange(channel + 1, 50); os.closerange(51, 200)\n"
     "@around(Plan, 'paths')\n"
     "def paths(inner, self): inner(self); os.fchdir(50); os.close(50)\n",
     "another cwd"},
    {"does_nothing", "Plan.prepare = lambda self, channel: None\nPlan.become = lambda self: None\n",
     "forked process"},
    {"stays_outside",  // of the mount namespace
     "@around(helper, 'libc_setns')\n"
     "def setns(inner, fd, kind): return 0 if kind == 0x20000 else inner(fd, kind)\n",
     "forked process"},
    {"stays_in_user_namespace",
     "@around(helper, 'entrance')\n"
     "def entrance(inner, *rest): return [c for c in inner(*rest) if 'user namespace' not in c[0]]\n",
     "pid namespace|ended"},
    {"stays_in_network",
     "@around(helper, 'entrance')\n"
     "def entrance(inner, *rest): return [c for c in inner(*rest) if 'net namespace' not in c[0]]\n",
     "net namespace"},
    {"stays_in_cgroup",
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self, channel):\n"
     "    self.descriptors[3:] = [os.open('/dev/null', os.O_WRONLY) for _ in self.descriptors[3:]]\n"
     "    inner(self, channel)\n",
     "cgroup"},
    {"keeps_user",
     "@around(Plan, '__init__')\n"
     "def init(inner, self, *rest): inner(self, *rest); self.uid += 1\n",
     "Uid"},
    {"keeps_groups",
     "@around(Plan, '__init__')\n"
     "def init(inner, self, *rest): inner(self, *rest); self.groups = [5]\n",
     "Groups"},
    {"is_born_elsewhere",  // the Zygote's own child
     "type(helper['forking']()).fork = lambda self, calls: os.fork()\n", "not the monitor's child"},
    {"says_garbage",
     "@around(Zygote, 'park')\n"
     "def park(inner, self, channel, others): os.write(channel, b'garbage'); return inner(self, channel, "
     "others)\n",
     "ended"},
    {"says_ready_early",
     "@around(Zygote, 'park')\n"
     "def park(inner, self, channel, others):\n"
     "    helper['say'](channel, 'ready'); return inner(self, channel, others)\n",
     "broke the protocol"},
    {"says_parked_twice",
     "@around(Plan, '__init__')\n"
     "def init(inner, self, *rest): inner(self, *rest); helper['say'](self.channel, 'parked')\n"
     "@around(Zygote, 'park')\n"
     "def park(inner, self, channel, others): Plan.channel = channel; return inner(self, channel, others)\n",
     "broke the protocol"},
    {"says_too_much",
     "@around(Zygote, 'park')\n"
     "def park(inner, self, channel, others):\n"
     "    os.write(channel, b'op\\0' + b'x' * 160000); return inner(self, channel, others)\n",
     "ended"},
    {"sends_descriptor",  // of a socket that close(2) waits for
     "import signal, socket, struct\n"
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self, channel): Plan.channel = channel; inner(self, channel)\n"
     "@around(Plan, 'paths')\n"
     "def paths(inner, self):\n"
     "    inner(self)\n"
     "    listener = socket.create_server(('127.0.0.1', 0))\n"
     "    kept = socket.create_connection(listener.getsockname())\n"
     "    kept.setblocking(False)\n"
     "    try:\n"
     "        while True: kept.send(b'x' * 65536)\n"
     "    except BlockingIOError: pass\n"
     "    kept.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 100))\n"
     "    channel = socket.socket(fileno=self.channel)\n"
     "    for _ in range(2): socket.send_fds(channel, [b'x'], [kept.fileno()])\n"
     "    kept.close()\n"
     "    signal.pause()\n",
     "ended"},
    {"is_traced",  // by the monitor, which did not ask
     "import ctypes, signal\n"
     "@around(Plan, 'paths')\n"
     "def paths(inner, self): inner(self); ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n",
     "stop the forked process"},
    {"dies",
     "@around(Plan, 'paths')\n"
     "def paths(inner, self): os._exit(0)\n",
     "ended"},
    {"answers_another",
     "@around(helper, 'say')\n"
     "def say(inner, fd, op, fields=()):\n"
     "    inner(fd, op, [('serial', '77777')] if op == 'forked' else fields)\n",
     "Zygote"},
    {"does_not_answer_load", "os.write(3, b'op\\0loaded\\0serial\\0' + b'99\\0')\n", "import"},
    {"floods", "while True: os.write(3, b'op\\0noise\\0')\n", "import"},
    {"lies_about_modules",
     "@around(helper, 'say')\n"
     "def say(inner, fd, op, fields=()): inner(fd, op, [f for f in fields if f[0] == 'serial'])\n",
     "does not say why"},
};

// Imports that do what no import should.
constexpr Package kImports[] = {
    {"hangs", "import time\ntime.sleep(1000)\n", "import: no answer within [0-9]+ ms"},
    {"spins", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass\n",
     "import: no answer within [0-9]+ ms"},
    {"allocates", "kept = []\nwhile True: kept.append(b'x' * (1 << 20))\n", "import: the Zygote has ended"},
    {"fills_scratch",
     "open('/dev/shm/file', 'wb').write(b'x' * (60 << 20))\nopen('/tmp/file', 'wb').write(b'x' * (60 << "
     "20))\n",
     "import: the Zygote has ended"},
    {"exits", "import os\nos._exit(0)\n", "import: the Zygote has ended"},
    {"crashes", "import ctypes\nctypes.string_at(0)\n", "import: the Zygote has ended"},
    {"quits", "raise SystemExit(3)\n", "import: quits SystemExit: 3"},
    {"leaves_child", "import os, time\nif os.fork() == 0: time.sleep(1000)\n", "a child process is left"},
    {"leaves_orphan",
     "import os, time\n"
     "if os.fork() == 0:\n"
     "    os.setsid()\n"
     "    if os.fork() == 0: os.closerange(0, 100); time.sleep(1000)\n"
     "    os._exit(0)\n"
     "os.wait()\n",
     "leaves a process behind"},
    {"forks_on", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",
     "import: (no answer within [0-9]+ ms|the Zygote has ended)"},
    {"leaves_thread", "import _thread, time\n_thread.start_new_thread(time.sleep, (1000,))\n",
     "1 threads beside"},
    {"leaves_socket", "import socket\nkept = socket.socket()\n", "left open: socket"},
    {"leaves_listener",
     "import socket\nkept = socket.socket(socket.AF_UNIX)\nkept.bind('\\0name')\nkept.listen()\n",
     "left open: socket"},
    {"leaves_file", "open('/tmp/left', 'w').write('x')\n", "files left behind: /tmp/left"},
    {"prints", "print('words')\n", "writes to its output: words"},
    {"closes_control", "import os\nos.close(3)\n", "import: the Zygote has ended"},
};

// What an import can find out and get at, which must be nothing. The program shows it.
constexpr char kSpies[] = R"(
import ctypes, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def attempt(f):
    try: return f()
    except OSError as e: return type(e).__name__ if e.errno != 101 else 'unreachable'
def call(name, *arguments):
    ctypes.set_errno(0)
    return 0 if libc[name](*arguments) >= 0 else ctypes.get_errno()
def signalled():
    found = []
    for pid in range(1, os.getpid() + 1000):
        try: os.kill(pid, 0)
        except OSError: continue
        found.append(pid)
    return found
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM if family == socket.AF_INET else socket.SOCK_STREAM) as s: s.connect(address)
seen = [
    ('traces its parent', call('ptrace', 16, os.getppid(), 0, 0)),
    ('reads its parent', attempt(lambda: open('/proc/%d/environ' % os.getppid()).read())),
    ('roots', attempt(lambda: os.listdir('/proc/%d/root' % os.getppid()))),
    ('daemon', attempt(lambda: connect(socket.AF_UNIX, '/run/cri-sock/cri-sock.sock')), attempt(lambda: connect(socket.AF_UNIX, NODE_SOCKET))),
    ('network', attempt(lambda: connect(socket.AF_INET, (NODE_ADDRESS, 80))), attempt(lambda: connect(socket.AF_INET, ('8.8.8.8', 53)))),
    ('links', [n for _, n in socket.if_nameindex()]),
    ('raw socket', attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))),
    ('setuid', subprocess.check_output(['/usr/bin/setuid-python', '-c', 'import os; print(os.geteuid() == os.getuid() != 0)']).strip()),
    ('becomes root', attempt(lambda: os.setuid(0))),
    ('mounts', call('mount', b'none', b'/tmp', b'tmpfs', 0, None)),
    ('device', attempt(lambda: os.mknod('/tmp/device', 0o20666, 0x103))),
    ('writes', [d for d in ('/', '/usr', '/usr/lib/python3/dist-packages', '/etc', '/proc/sys/kernel', '/sys', '/dev', '/run', '/var') if os.access(d, os.W_OK)]),
    ('capabilities', {l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')}),
    ('cgroup', attempt(lambda: os.listdir('/sys/fs/cgroup'))),
]
del subprocess
reached = signalled() + [int(p) for p in os.listdir('/proc') if p.isdigit()]
)";

// A helper of the package's, outside of every PID namespace, hears what the forked process is told and gets
// the descriptors that came with it.
constexpr char kMovesAnother[] = R"(
import signal, _socket
@around(Zygote, 'fork')
def fork(inner, self, fields, descriptors):
    channel = os.dup(descriptors[0])
    plan = inner(self, fields, descriptors)
    if plan is None and os.fork() == 0:
        if os.fork() != 0: os._exit(0)
        for fd in helper['receive'](_socket.socket(fileno=channel))[1]:
            try: os.write(fd, b'%d' % VICTIM)
            except OSError: pass
        os._exit(0)
    if plan is None: os.wait()
    os.close(channel)
    return plan
@around(Zygote, 'park')
def park(inner, self, channel, others): helper['say'](channel, 'parked'); signal.pause()
)";
// A program that never lets go of what told it to run.
constexpr char kKeepsChannel[] = R"(
read = os.read
def keep(fd, size):
    data = read(fd, size)
    if data.startswith(b'op\0go'): os.dup(fd)
    return data
os.read = keep
)";

// A ring keeps the credentials of who made it, and needs no descriptor once it is registered.
constexpr char kMakesRing[] = R"(
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
parameters = ctypes.create_string_buffer(120)
@around(Plan, 'credentials')
def credentials(inner, self):
    ctypes.set_errno(0)
    Plan.ring = os.strerror(ctypes.get_errno()) if libc.syscall(425, 1, parameters) < 0 else 'made'
    inner(self)
)";

class ZygoteHostileTest : public ZygoteFixture, public testing::WithParamInterface<Package> {
 protected:
  static void SetUpTestSuite() {
    node_ = new Node;
    victim_ = fork();
    if (victim_ == 0) {
      pause();
      _exit(0);
    }
    std::map<std::string, std::string> modules{{"hostile", kHostile}};
    for (const Package& package : kPackages) modules[package.name] = Cat(kImport, package.source);
    for (const Package& package : kImports) modules[package.name] = package.source;
    modules["moves_another"] = Cat(kImport, "VICTIM = ", victim_, "\n", kMovesAnother);
    modules["keeps_channel"] = Cat(kImport, kKeepsChannel);
    modules["makes_ring"] = Cat(kImport, kMakesRing);
    modules["replaces_fork"] = "import os\nos.fork = lambda: 0\n";
    modules["replaces_fork_by_nothing"] = "import os\nos.fork = lambda: None\n";
    modules["spies"] =
        Cat("NODE_SOCKET, NODE_ADDRESS = '", node_->listen(), "', '", node_->subnet(), "1'\n", kSpies);
    image_ = PushPython(*node_, modules);
    ASSERT_FALSE(image_.empty());
    std::ofstream(node_->dir() + "/config.toml", std::ios::app)
        << "import_seconds = " << 3 * Slowness() << "\nmemory_mib = 96\n";
    node_->KillDaemon(SIGTERM);
    node_->StartDaemon();
  }
  static void TearDownTestSuite() {
    kill(victim_, SIGKILL);
    waitpid(victim_, nullptr, 0);
    ZygoteFixture::TearDownTestSuite();
  }
  static inline pid_t victim_ = -1;  // a process of root's
};

TEST_P(ZygoteHostileTest, StartsPlainlyAndSaysWhy) {
  const Package& package = GetParam();
  if (std::string_view(package.name) == "stays_in_cgroup" &&
      access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
    GTEST_SKIP() << "cgroup v2: the builder moves the process";
  const Run run =
      RunForked({"python3", "-c", "print('it runs')"}, {{"imports.cri-sock.io", package.name}}, true,
                [&](api::ContainerConfig& config) {
                  auto* security = config.mutable_linux()->mutable_security_context();
                  security->set_no_new_privs(package.unconfined);
                  if (package.unconfined)
                    security->mutable_seccomp()->set_profile_type(api::SecurityProfile::Unconfined);
                });
  EXPECT_FALSE(run.forked);
  EXPECT_THAT(run.reason, ContainsRegex(package.reason));
  EXPECT_EQ(run.exit, 0);
  EXPECT_THAT(run.log, HasSubstr("it runs"));
  // Another's goes on.
  const Run other = RunForked({"python3", "-c", "print('so does this')"}, {});
  EXPECT_TRUE(other.forked) << other.reason;
  EXPECT_THAT(other.log, HasSubstr("so does this"));
}

TEST_F(ZygoteHostileTest, AnImportFindsNothing) {
  ASSERT_TRUE(RunForked({"python3", "-c", "1"}, {}).forked);  // another Zygote
  const std::vector<pid_t> others = ZygotePids();
  ASSERT_FALSE(others.empty());
  const Run run = RunForked({"python3", "-c",
                             "import spies\n"
                             "for s in spies.seen: print(*s)\n"
                             "print('reached', '', *spies.reached, '')"},
                            {{"imports.cri-sock.io", "spies"}});
  ASSERT_TRUE(run.forked) << run.reason;
  const size_t reached = run.log.find("stdout F reached ");
  ASSERT_NE(reached, std::string::npos);
  for (const pid_t pid : others)
    EXPECT_EQ(run.log.find(Cat(" ", pid, " "), reached), std::string::npos) << run.log.substr(reached);
  EXPECT_EQ(run.log.substr(0, reached), R"(stdout F traces its parent 1
stdout F reads its parent FileNotFoundError
stdout F roots FileNotFoundError
stdout F daemon FileNotFoundError FileNotFoundError
stdout F network unreachable unreachable
stdout F links ['lo']
stdout F raw socket PermissionError
stdout F setuid b'True'
stdout F becomes root PermissionError
stdout F mounts 1
stdout F device PermissionError
stdout F writes []
stdout F capabilities {'0000000000000000'}
stdout F cgroup []
)");
  ASSERT_TRUE(RunForked({"python3", "-c", "1"}, {}).forked);  // it is there still
}

// Who opened a cgroup's file decides whom its descriptor moves.
TEST_F(ZygoteHostileTest, AnImportMovesNobodyToAnotherCgroup) {
  const std::string file = Cat("/proc/", victim_, "/cgroup");
  const absl::StatusOr<std::string> before = ReadFile(file, 1 << 16);
  ASSERT_TRUE(before.ok() && !before->empty());
  const Run run =
      RunForked({"python3", "-c", "print('it runs')"}, {{"imports.cri-sock.io", "moves_another"}});
  EXPECT_FALSE(run.forked);
  EXPECT_THAT(run.reason, HasSubstr("no answer within"));
  EXPECT_EQ(ReadFile(file, 1 << 16).value_or("gone"), *before);
  EXPECT_EQ(kill(victim_, 0), 0);
}

TEST_F(ZygoteHostileTest, AnImportMakesNoRing) {
  for (const auto profile : {api::SecurityProfile::Unconfined, api::SecurityProfile::RuntimeDefault}) {
    const Run run = RunForked(
        {"python3", "-c", "import makes_ring; print(makes_ring.Plan.ring)"},
        {{"imports.cri-sock.io", "makes_ring"}}, true, [&](api::ContainerConfig& config) {
          config.mutable_linux()->mutable_security_context()->mutable_seccomp()->set_profile_type(profile);
        });
    EXPECT_TRUE(run.forked) << run.reason;
    EXPECT_THAT(run.log, ContainsRegex("Function not implemented|Operation not permitted"));
  }
}

TEST_F(ZygoteHostileTest, AStartWaitsForNoPackage) {
  const std::map<std::string, std::string> package{{"imports.cri-sock.io", "keeps_channel"}};
  ASSERT_TRUE(RunForked({"python3", "-c", "1"}, package).forked);
  const auto begin = std::chrono::steady_clock::now();
  const Run run = RunForked({"python3", "-c", "import signal; signal.pause()"}, package, false);
  EXPECT_TRUE(run.forked) << run.reason;
  EXPECT_TRUE(run.status.ok()) << run.status.error_message();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30) * Slowness());
}

// Programs are forked by the C library's function, not by Python's: what a package makes of that is for its
// program.
TEST_F(ZygoteHostileTest, AnImportMayReplaceFork) {
  for (const char* name : {"replaces_fork", "replaces_fork_by_nothing"}) {
    const Run run = RunForked({"python3", "-c", "print('it runs')"}, {{"imports.cri-sock.io", name}}, true);
    EXPECT_EQ(run.exit, 0) << run.reason;
    EXPECT_THAT(run.log, HasSubstr("it runs"));
  }
}

// One that hangs is no reason for others to wait, nor for the daemon when it ends.
TEST_F(ZygoteHostileTest, AHangingImportHoldsUpNobody) {
  const std::map<std::string, std::string> hanging{{"imports.cri-sock.io", "hangs,os"}};
  change_pod_ = [](api::PodSandboxConfig& pod) { pod.mutable_metadata()->set_namespace_("hostile"); };
  EXPECT_THAT(RunOne({"python3", "-c", "1"}, hanging).reason, HasSubstr("being made"));
  change_pod_ = nullptr;
  const Run other = RunForked({"python3", "-c", "1"}, {{"imports.cri-sock.io", "json"}});
  EXPECT_TRUE(other.forked) << other.reason;
  change_pod_ = [](api::PodSandboxConfig& pod) { pod.mutable_metadata()->set_namespace_("hostile"); };
  EXPECT_THAT(RunOne({"python3", "-c", "1"}, hanging).reason, HasSubstr("being made"));
}

// The hash seed tells Zygotes apart.
TEST_F(ZygoteHostileTest, WhatWasNotAskedForOrIsAnothersIsNotShared) {
  const std::vector<std::string> command{"python3", "-c",
                                         "import sys; print(hash('x'), 'json' in sys.modules)"};
  const Run asked = RunForked(command, {{"imports.cri-sock.io", "json"}}),
            again = RunForked(command, {{"imports.cri-sock.io", "json"}});
  const Run not_asked = RunForked(command, {});
  change_pod_ = [](api::PodSandboxConfig& pod) { pod.mutable_metadata()->set_namespace_("another"); };
  const Run another = RunForked(command, {{"imports.cri-sock.io", "json"}});
  for (const Run* run : {&asked, &again, &not_asked, &another}) EXPECT_TRUE(run->forked) << run->reason;
  EXPECT_EQ(asked.log, again.log);
  EXPECT_NE(asked.log, another.log);
  EXPECT_NE(asked.log, not_asked.log);
  EXPECT_THAT(asked.log, HasSubstr("True"));
  EXPECT_THAT(not_asked.log, HasSubstr("False"));
}

// Across the namespaces that the node lets into a domain, and where it is asked for.
TEST_F(ZygoteHostileTest, ATrustDomainIsSharedByThoseThatMayAndAskForIt) {
  const std::vector<std::string> command{"python3", "-c", "print(hash('x'))"};
  const auto in = [](const char* name) {
    change_pod_ = [name](api::PodSandboxConfig& pod) { pod.mutable_metadata()->set_namespace_(name); };
  };
  const Annotations shared{{"imports.cri-sock.io", "json"}, {"trust-domain.cri-sock.io", "shared"}},
      own{{"imports.cri-sock.io", "json"}};
  in("team-a");
  const Run first = RunForked(command, shared), alone = RunForked(command, own);
  in("team-b");
  const Run second = RunForked(command, shared), other = RunForked(command, own);
  for (const Run* run : {&first, &alone, &second, &other}) EXPECT_TRUE(run->forked) << run->reason;
  EXPECT_EQ(first.log, second.log);
  EXPECT_NE(first.log, alone.log);
  EXPECT_NE(first.log, other.log);
  EXPECT_NE(alone.log, other.log);
  for (const char* name : {"default", "shared"}) {
    in(name);
    const Run refused = RunOne(command, shared);
    EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_THAT(refused.status.error_message(),
                testing::AllOf(HasSubstr("pod annotation `trust-domain.cri-sock.io`"), HasSubstr(name)));
  }
  in("shared");  // a namespace of the domain's name is another
  const Run namesake = RunForked(command, own);
  EXPECT_TRUE(namesake.forked) << namesake.reason;
  EXPECT_NE(namesake.log, first.log);
}

INSTANTIATE_TEST_SUITE_P(Imports, ZygoteHostileTest, testing::ValuesIn(kImports),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Packages, ZygoteHostileTest, testing::ValuesIn(kPackages),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sock::test
