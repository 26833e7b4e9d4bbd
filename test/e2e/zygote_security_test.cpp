// What a container may do does not depend on whether it was forked: each program runs both ways and tells the
// same.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>

#include "runtime/base/path.h"
#include "test/e2e/zygote_fixture.h"

namespace sock::test {
namespace {

using testing::HasSubstr;
using testing::Not;

// Every system call's number, of x86-64 with those of x32, each in a process of its own, with arguments of 0
// and of -1.
constexpr char kProbe[] = R"(
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def answer(number, argument):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        me = os.getpid()
        signal.setitimer(signal.ITIMER_REAL, 0.1 if number in (23, 34, 270, 271) else 2)  # select and its like, pause
        got = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(argument)] * 6)
        if os.getpid() != me: os._exit(0)
        os.write(write, b'ok' if got >= 0 else b'errno %d' % ctypes.get_errno())
        os._exit(0)
    os.close(write)
    told = os.read(read, 100).decode()
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    # What waits is allowed too.
    return told or ('ok' if status == signal.SIGALRM else 'status %d' % status)
# vfork shares the interpreter's memory; a forked program has no io_uring_setup, and for the filter's sake no strict mode
left_out = 58, 425, 317
for number in [n for n in range(480) if n not in left_out] + [0x40000000 + n for n in range(0, 548, 9)] + [100000, -2]:
    print(number, answer(number, 0), answer(number, -1))
)";

// Ways to undo what mounts forbid, in the container's own namespaces and in a user namespace below.
constexpr char kUndo[] = R"(
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
RDONLY, NOSUID, REMOUNT, BIND, MOVE, REC, DETACH = 1, 2, 32, 4096, 8192, 16384, 2
places = ['/vol', '/vol/below', '/proc', '/proc/acpi', '/proc/keys', '/proc/kcore', '/proc/sys', '/proc/irq', '/sys', '/sys/firmware', '/']
def c(x): return x.encode() if isinstance(x, str) else x
def attempt(name, *arguments):
    ctypes.set_errno(0)
    function = (lambda *a: libc.syscall(name, *a)) if isinstance(name, int) else libc[name]
    got = function(*[ctypes.c_long(a) if isinstance(a, int) else c(a) for a in arguments])
    print(name, *[a for a in arguments if isinstance(a, str) or isinstance(a, int) and a < 1 << 32], 'ok' if got >= 0 else ctypes.get_errno())
    return got
def contents(where):
    for place in ('/vol', '/vol/below'):
        try: open(where + place + '/undone', 'w'); print('undone: written', where, place)
        except OSError as e: print(where, place, e.errno)
    for file in ('/proc/keys', '/proc/kcore', '/proc/timer_list'):
        try: print(where + file, len(open(where + file, 'rb').read(10)))
        except OSError as e: print(where, file, e.errno)
    for file in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/irq/default_smp_affinity'):
        try: open(where + file, 'r+'); print('undone: opened', where, file)
        except OSError as e: print(where, file, e.errno)
    for folder in ('/proc/acpi', '/sys/firmware'):
        try: print(where + folder, os.listdir(where + folder))
        except OSError as e: print(where, folder, e.errno)
class Attributes(ctypes.Structure):
    _fields_ = [('set', ctypes.c_uint64), ('clear', ctypes.c_uint64), ('propagation', ctypes.c_uint64), ('user', ctypes.c_uint64)]
def everything(here):
    for directory in ('a', 'b', 'c', 'd'): os.makedirs(here + directory, exist_ok=True)
    for place in places:
        attempt('umount2', place, 0)
        attempt('umount2', place, DETACH)
        attempt('mount', None, place, None, REMOUNT | BIND, None)
        attempt('mount', None, place, None, REMOUNT, None)
        attempt('mount', place, here + 'a', None, MOVE, None)
        attempt(442, -100, place, 0x8000, ctypes.addressof(Attributes(0, 1, 0, 0)), 32)  # mount_setattr, recursively
        attempt(428, -100, place, 1)  # open_tree, a clone
    contents('')
    attempt('mount', '/', here + 'b', None, BIND, None)
    contents(here + 'b')
    attempt('mount', '/', here + 'c', None, BIND | REC, None)
    for place in places[1:-1]: attempt('umount2', here + 'c' + place, DETACH)
    for place in places[:-1]: attempt('mount', None, here + 'c' + place, None, REMOUNT | BIND, None)
    contents(here + 'c')
    attempt('mount', 'proc', here + 'd', 'proc', 0, None)
    attempt('mount', 'sysfs', here + 'd', 'sysfs', 0, None)
    attempt('mount', 'none', '/vol', 'tmpfs', 0, None)
    attempt('umount2', '/vol', 0)
    attempt('mount', 'none', '/proc/acpi', 'tmpfs', 0, None)
    attempt('umount2', '/proc/acpi', 0)
    attempt('umount2', '/proc/acpi', 0)
    attempt('pivot_root' if hasattr(libc, 'pivot_root') else 155, here + 'c', here + 'c/tmp')
    contents('')
os.makedirs('/tmp/own/', exist_ok=True)
everything('/tmp/own/')
child = os.fork()
if child == 0:
    print('below', attempt('unshare', 0x10000000 | 0x20000))
    everything('/tmp/own/')
    os._exit(0)
print(os.waitpid(child, 0)[1])
)";

// What the kernel says of a process.
constexpr char kCredentials[] = R"(
import os
skip = ('FDSize', 'Vm', 'Rss', 'Hugetlb', 'voluntary', 'nonvoluntary', 'Cpus', 'Mems', 'THP', 'Kthread', 'SigQ', 'Seccomp', 'x86_Thread')
for line in open('/proc/self/status'):
    if not line.startswith(skip): print(line.rstrip())
for file in ('uid_map', 'gid_map', 'setgroups', 'limits', 'oom_score_adj', 'loginuid', 'sessionid', 'personality', 'coredump_filter', 'timens_offsets', 'attr/current'):
    try: lines = open('/proc/self/' + file).read().splitlines()
    except OSError as e: lines = [str(e.errno)]
    print(file, *[l.split()[0::2] if file.endswith('_map') else l for l in lines])
print(sorted((f, os.readlink('/proc/self/fd/' + f).split(':')[0]) for f in os.listdir('/proc/self/fd') if int(f) < 3), len(os.listdir('/proc/self/fd')))
print([l.split(':')[2] for l in open('/proc/self/cgroup')], os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.getsid(0), os.getpgid(0))
print(sorted((l.split()[4], l.split()[5], l.split(' - ')[1].split()[0]) for l in open('/proc/self/mountinfo')))
namespaces = sorted(os.listdir('/proc/self/ns'))
print(namespaces, [n for n in namespaces if os.readlink('/proc/self/ns/' + n) == os.readlink('/proc/1/ns/' + n)])
)";

class ZygoteSecurityTest : public ZygoteFixture {
 protected:
  static void SetUpTestSuite() {
    node_ = new Node;
    image_ = PushPython(*node_, {});
    ASSERT_FALSE(image_.empty());
  }
  // Both ways; the log of either.
  static std::string RunsTheSame(const std::string& program, const Change& change) {
    const std::vector<std::string> command{"python3", "-c", program};
    RunForked({"python3", "-c", "1"}, {}, true, change);
    const Run forked = RunForked(command, {}, true, change);
    EXPECT_TRUE(forked.forked) << forked.reason << forked.status.error_message();
    const Run plain = RunOne(command, {{"zygote.cri-sock.io", "off"}}, true, change);
    EXPECT_FALSE(plain.forked);
    EXPECT_EQ(forked.exit, 0);
    EXPECT_EQ(plain.exit, 0);
    EXPECT_EQ(forked.log, plain.log);
    return forked.log;
  }
};

void Unconfined(api::ContainerConfig& config) {
  config.mutable_linux()->mutable_security_context()->mutable_seccomp()->set_profile_type(
      api::SecurityProfile::Unconfined);
}

TEST_F(ZygoteSecurityTest, EverySystemCallHasTheSameAnswer) {
  const std::string of_default = RunsTheSame(kProbe, {});
  EXPECT_THAT(of_default, HasSubstr("F 0 "));
  EXPECT_THAT(of_default, HasSubstr("F 308 errno 1 errno 1\n"));  // setns
  const std::string unconfined = RunsTheSame(kProbe, Unconfined);
  EXPECT_THAT(unconfined, Not(HasSubstr("F 308 errno 1 errno 1\n")));
  std::ofstream(node_->dir() + "/profile.json") << R"({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
      {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
      {"names": ["getpriority"], "action": "SCMP_ACT_KILL_PROCESS"},
      {"names": ["sched_get_priority_max"], "action": "SCMP_ACT_TRAP"},
      {"names": ["setns", "unshare", "seccomp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78}]})";
  auto local = [](api::ContainerConfig& config) {
    auto* seccomp = config.mutable_linux()->mutable_security_context()->mutable_seccomp();
    seccomp->set_profile_type(api::SecurityProfile::Localhost);
    seccomp->set_localhost_ref(node_->dir() + "/profile.json");
  };
  const std::string of_file = RunsTheSame(kProbe, local);
  EXPECT_THAT(of_file, HasSubstr("F 83 errno 77 errno 77\n"));
  EXPECT_THAT(of_file, HasSubstr("F 308 errno 78 errno 78\n"));
  EXPECT_THAT(of_file, HasSubstr("F 140 status 31 status 31\n"));  // SIGSYS
  EXPECT_THAT(of_file, HasSubstr("F 146 status 31 status 31\n"));
}

TEST_F(ZygoteSecurityTest, CredentialsAndAllElseAreThoseOfAPlainStart) {
  auto security = [](api::ContainerConfig& config) {
    return config.mutable_linux()->mutable_security_context();
  };
  const Change changes[] = {
      {},
      Unconfined,
      [&](api::ContainerConfig& config) {
        security(config)->mutable_run_as_user()->set_value(1000);
        security(config)->mutable_run_as_group()->set_value(2000);
        security(config)->add_supplemental_groups(3000);
        security(config)->set_no_new_privs(true);
      },
      [&](api::ContainerConfig& config) {
        security(config)->mutable_run_as_user()->set_value(65534);
        security(config)->mutable_capabilities()->add_drop_capabilities("ALL");
        security(config)->mutable_capabilities()->add_add_capabilities("NET_BIND_SERVICE");
        security(config)->set_readonly_rootfs(true);
        Unconfined(config);
      },
      [&](api::ContainerConfig& config) {
        security(config)->mutable_capabilities()->add_add_capabilities("SYS_ADMIN");
        security(config)->mutable_capabilities()->add_add_capabilities("NET_ADMIN");
        config.mutable_linux()->mutable_resources()->set_oom_score_adj(500);
      }};
  for (const Change& change : changes) EXPECT_THAT(RunsTheSame(kCredentials, change), HasSubstr("CapEff:"));
}

TEST_F(ZygoteSecurityTest, WhatMountsForbidCantBeUndone) {
  const std::string volume = node_->dir() + "/volume";
  ASSERT_EQ(mkdir(volume.c_str(), 0777), 0);
  ASSERT_EQ(mkdir((volume + "/below").c_str(), 0777), 0);
  ASSERT_EQ(chmod(volume.c_str(), 0777) | chmod((volume + "/below").c_str(), 0777), 0);
  auto with_volume = [&](api::ContainerConfig& config) {
    auto* mount = config.add_mounts();
    mount->set_host_path(volume);
    mount->set_container_path("/vol");
    mount->set_readonly(true);
  };
  auto with_all = [&](api::ContainerConfig& config) {
    with_volume(config);
    Unconfined(config);
    config.mutable_linux()->mutable_security_context()->mutable_capabilities()->add_add_capabilities(
        "SYS_ADMIN");
  };
  for (const Change& change : {Change(with_volume), Change(with_all)}) {
    const std::string log = RunsTheSame(kUndo, change);
    EXPECT_THAT(log, Not(HasSubstr("undone"))) << log;
    EXPECT_THAT(log, HasSubstr("F /proc/keys 0\n"));
  }
  EXPECT_NE(access((volume + "/undone").c_str(), F_OK), 0);
  EXPECT_NE(access((volume + "/below/undone").c_str(), F_OK), 0);
}

}  // namespace
}  // namespace sock::test
