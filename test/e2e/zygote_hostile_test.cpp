// Packages that turn on the helper they are imported by: whatever one does between fork and start, the pod
// that asked for it starts plainly and says why, or fails by itself, and nobody else notices.
#include <gmock/gmock.h>
#include <sys/stat.h>

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
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self): inner(self); os.dup2(1, 77)\n",
     "descriptor 77"},
    {"swaps_descriptor",
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self): inner(self); os.dup2(os.open('/dev/null', os.O_RDWR), 0)\n",
     "descriptor"},
    {"starts_thread",
     "import _thread, time\n"
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self): inner(self); _thread.start_new_thread(time.sleep, (1000,))\n",
     "threads"},
    {"starts_process",
     "import time\n"
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self):\n"
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
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self): inner(self); os.fchdir(50); os.close(50)\n",
     "another cwd"},
    {"does_nothing", "Plan.become = lambda self, channel: None\n", "forked process"},
    {"stays_outside",  // of the mount namespace
     "@around(helper, 'libc_setns')\n"
     "def setns(inner, fd, kind): return 0 if kind == 0x20000 else inner(fd, kind)\n",
     "forked process"},
    {"stays_in_user_namespace",
     "@around(helper, 'libc_setns')\n"
     "def setns(inner, fd, kind): return 0 if kind == 0x10000000 else inner(fd, kind)\n",
     "pid namespace|ended"},
    {"stays_in_network",
     "@around(helper, 'libc_setns')\n"
     "def setns(inner, fd, kind): return 0 if kind == 0x40000000 else inner(fd, kind)\n",
     "net namespace"},
    {"stays_in_cgroup",
     "@around(Plan, 'become')\n"
     "def become(inner, self, channel):\n"
     "    mounts = self.descriptors[3]\n"
     "    self.descriptors[4:] = [os.open('/dev/null', os.O_WRONLY) for _ in self.descriptors[4:]]\n"
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
    {"is_traced",  // by the monitor, which did not ask
     "import ctypes, signal\n"
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self): inner(self); ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n",
     "stop the forked process"},
    {"dies",
     "@around(Plan, 'prepare')\n"
     "def prepare(inner, self): os._exit(0)\n",
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

class ZygoteHostileTest : public ZygoteFixture, public testing::WithParamInterface<Package> {
 protected:
  static void SetUpTestSuite() {
    node_ = new Node;
    std::map<std::string, std::string> modules{{"hostile", kHostile}};
    for (const Package& package : kPackages) modules[package.name] = Cat(kImport, package.source);
    image_ = PushPython(*node_, modules);
    ASSERT_FALSE(image_.empty());
  }
};

TEST_P(ZygoteHostileTest, StartsPlainlyAndSaysWhy) {
  const Package& package = GetParam();
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

INSTANTIATE_TEST_SUITE_P(Packages, ZygoteHostileTest, testing::ValuesIn(kPackages),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sock::test
