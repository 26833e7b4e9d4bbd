#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/internal.h"

namespace sock::runtime::cgroup {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// ---- pure parts

TEST(CgroupLimits, SharesBecomeWeight) {
  EXPECT_EQ(SharesToWeight(2), 1u);
  EXPECT_EQ(SharesToWeight(1), 1u);
  EXPECT_EQ(SharesToWeight(1024), 39u);
  EXPECT_EQ(SharesToWeight(262144), 10000u);
  EXPECT_EQ(SharesToWeight(1 << 30), 10000u);
}

TEST(CgroupLimits, BadValuesNameTheirField) {
  auto message = [](auto set, bool v2 = false) {
    oci::Resources r;
    set(r);
    absl::Status status = CheckResources(r, v2);
    return status.ok() ? "" : absl::IsInvalidArgument(status) ? Message(status) : "wrong code";
  };
  EXPECT_THAT(message([](auto& r) { r.memory_limit = -2; }), HasSubstr("memory_limit `-2`"));
  EXPECT_THAT(message([](auto& r) { r.memory_limit = 10, r.memory_swap = 9; }), HasSubstr("memory_swap `9`"));
  EXPECT_THAT(message([](auto& r) { r.cpu_period = 999; }), HasSubstr("cpu_period"));
  EXPECT_THAT(message([](auto& r) { r.cpu_quota = -5; }), HasSubstr("cpu_quota"));
  EXPECT_THAT(message([](auto& r) { r.pids_limit = -2; }), HasSubstr("pids_limit"));
  EXPECT_THAT(message([](auto& r) { r.cpuset_cpus = "0-"; }), HasSubstr("cpuset_cpus"));
  EXPECT_THAT(message([](auto& r) { r.cpuset_mems = "../x"; }), HasSubstr("cpuset_mems"));
  EXPECT_THAT(message([](auto& r) { r.hugepage_limits["../2MB"] = 1; }), HasSubstr("hugepage_limits"));
  EXPECT_THAT(message([](auto& r) { r.unified["memory.high"] = "1"; }), HasSubstr("unified"));
  EXPECT_THAT(message([](auto& r) { r.unified["memory.high"] = "1"; }, true), "");
  for (const char* key : {"../memory.max", "a/b.c", "a..b", "cgroup.procs", "", ".x"}) {
    EXPECT_THAT(message([&](auto& r) { r.unified[key] = "1"; }, true), HasSubstr("unified")) << key;
  }
  EXPECT_THAT(message([](auto& r) {
                r.memory_limit = -1, r.memory_swap = -1, r.cpu_quota = -1, r.pids_limit = -1;
                r.cpuset_cpus = "0-3,7", r.hugepage_limits["2MB"] = 0;
              }),
              "");
}

TEST(CgroupLimits, MemoryNeverRisesAboveMemoryAndSwap) {
  auto order = [](int64_t limit, std::optional<int64_t> swap, uint64_t limit_now, uint64_t swap_now) {
    oci::Resources r;
    r.memory_limit = limit;
    r.memory_swap = swap;
    std::vector<std::string> out;
    auto settings = V1Memory("d", r, limit_now, swap_now);
    if (!settings.ok()) return std::vector<std::string>{Message(settings.status())};
    for (const Setting& s : *settings) out.push_back(Cat(s.file, "=", s.value));
    return out;
  };
  const std::string kLimit = "d/memory.limit_in_bytes=", kSwap = "d/memory.memsw.limit_in_bytes=";
  EXPECT_THAT(order(100, 200, kUnlimited, kUnlimited), ElementsAre(kLimit + "100", kSwap + "200"));
  EXPECT_THAT(order(300, 400, 100, 200), ElementsAre(kSwap + "400", kLimit + "300"));
  EXPECT_THAT(order(50, 60, 100, 200), ElementsAre(kLimit + "50", kSwap + "60"));
  EXPECT_THAT(order(-1, {}, 100, 200), ElementsAre(kSwap + "-1", kLimit + "-1"));
  EXPECT_THAT(order(300, {}, 100, 200), ElementsAre(HasSubstr("memory_limit `300`")));
}

TEST(CgroupLimits, SwapOfV2IsTheDifference) {
  oci::Resources r;
  r.memory_limit = 100, r.memory_swap = 250;
  auto settings = V2Memory("d", r, kUnlimited);
  ASSERT_TRUE(settings.ok());
  ASSERT_EQ(settings->size(), 2u);
  EXPECT_EQ((*settings)[0].file + "=" + (*settings)[0].value, "d/memory.max=100");
  EXPECT_EQ((*settings)[1].file + "=" + (*settings)[1].value, "d/memory.swap.max=150");
  r.memory_limit.reset();
  EXPECT_EQ(V2Memory("d", r, 200)->front().value, "50");
  EXPECT_TRUE(absl::IsInvalidArgument(V2Memory("d", r, 300).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(V2Memory("d", r, kUnlimited).status()));
}

TEST(CgroupPath, SystemdNames) {
  EXPECT_EQ(*ExpandSlice("a-b-c.slice"), "a.slice/a-b.slice/a-b-c.slice");
  EXPECT_EQ(*ExpandSlice("-.slice"), "");
  for (const char* bad : {"a", ".slice", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ExpandSlice(bad).status())) << bad;
  }
  EXPECT_EQ(*Normalize("k-p1.slice:cri-sock:ID", true), "k.slice/k-p1.slice/cri-sock-ID.scope");
  EXPECT_EQ(*Normalize("/k-p1.slice", true), "k.slice/k-p1.slice");
  EXPECT_EQ(ContainerPath("k-p1.slice", "ID", true), "k.slice/k-p1.slice/cri-sock-ID.scope");
  EXPECT_EQ(ContainerPath("/kubepods/pod1", "ID", false), "kubepods/pod1/ID");
  EXPECT_EQ(*Normalize("//a///b/", false), "a/b");
  for (const char* bad : {"", "/", "a/../b", "..", "./a"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Normalize(bad, false).status())) << bad;
  }
}

// Runs the program as the kernel would, for the few instructions that it is made of.
int Interpret(const std::vector<bpf_insn>& code, uint32_t type, uint32_t access, uint32_t major,
              uint32_t minor) {
  uint32_t context[3] = {access << 16 | type, major, minor};
  uint64_t r[11] = {};
  for (size_t pc = 0; pc < code.size(); ++pc) {
    const bpf_insn& i = code[pc];
    uint32_t dst = static_cast<uint32_t>(r[i.dst_reg]), imm = static_cast<uint32_t>(i.imm);
    switch (i.code) {
      case BPF_LDX | BPF_MEM | BPF_W:
        r[i.dst_reg] = context[i.off / 4];
        break;
      case BPF_ALU | BPF_MOV | BPF_X:
        r[i.dst_reg] = r[i.src_reg];
        break;
      case BPF_ALU64 | BPF_MOV | BPF_K:
        r[i.dst_reg] = imm;
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        r[i.dst_reg] = dst & imm;
        break;
      case BPF_ALU | BPF_RSH | BPF_K:
        r[i.dst_reg] = dst >> imm;
        break;
      case BPF_JMP32 | BPF_JNE | BPF_K:
        pc += dst != imm ? i.off : 0;
        break;
      case BPF_JMP32 | BPF_JSET | BPF_K:
        pc += (dst & imm) ? i.off : 0;
        break;
      case BPF_JMP | BPF_JA:
        pc += i.off;
        break;
      case BPF_JMP | BPF_EXIT:
        return static_cast<int>(r[0]);
      default:
        ADD_FAILURE() << "unknown instruction " << int{i.code};
        return -1;
    }
  }
  ADD_FAILURE() << "ran past the end";
  return -1;
}

TEST(CgroupDevices, LastMatchingRuleDecidesEachAccess) {
  constexpr uint32_t kB = BPF_DEVCG_DEV_BLOCK, kC = BPF_DEVCG_DEV_CHAR, kM = 1, kR = 2, kW = 4;
  std::vector<bpf_insn> code =
      DeviceProgram({{.allow = true, .type = 'b', .major = 1},
                     {.allow = false},
                     {.allow = true, .type = 'c', .major = 1, .minor = 3},
                     {.allow = true, .type = 'c', .major = 5, .access = "r"},
                     {.allow = true, .type = 'c', .major = 5, .minor = 1, .access = "w"},
                     {.allow = true, .type = 'a', .access = "m"},
                     {.allow = false, .type = 'c', .major = 9, .access = "m"}});
  EXPECT_EQ(Interpret(code, kC, kR | kW, 1, 3), 1);
  EXPECT_EQ(Interpret(code, kC, kR, 1, 5), 0);
  EXPECT_EQ(Interpret(code, kB, kR, 1, 3), 0);
  EXPECT_EQ(Interpret(code, kC, kR, 5, 7), 1);
  EXPECT_EQ(Interpret(code, kC, kR | kW, 5, 7), 0);
  EXPECT_EQ(Interpret(code, kC, kR | kW, 5, 1), 1);  // two rules together
  EXPECT_EQ(Interpret(code, kB, kM, 8, 0), 1);
  EXPECT_EQ(Interpret(code, kC, kM, 9, 0), 0);
  EXPECT_EQ(Interpret(code, kC, kM | kR, 1, 3), 1);
  EXPECT_EQ(Interpret(DeviceProgram({}), kC, kR, 1, 3), 1);
  EXPECT_EQ(Interpret(DeviceProgram({{.allow = false, .type = 'c', .major = 1}}), kC, kR, 2, 3), 1);
}

// Version 2's files, as plain ones: what is written where, in the order of the checks.
TEST(CgroupV2, WritesItsFiles) {
  char root[] = "/tmp/cri-sock-cgroup-XXXXXX";
  ASSERT_NE(mkdtemp(root), nullptr);
  std::string dir = Cat(root, "/c1");
  ASSERT_TRUE(MakeDirs(dir).ok());
  for (const char* file :
       {"memory.max", "memory.swap.max", "memory.high", "cpu.weight", "cpuset.cpus", "pids.max"}) {
    ASSERT_TRUE(OpenPath(Cat(dir, "/", file), O_CREAT | O_WRONLY, 0600).ok());
  }
  for (auto [file, text] : {std::pair{"cpu.max", "max 100000\n"},
                            {"memory.current", "9000"},
                            {"memory.stat", "anon 4000\ninactive_file 5000\n"},
                            {"memory.events", "oom 3\noom_kill 2\n"},
                            {"io.pressure",
                             "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\n"
                             "full avg10=0.50 avg60=0.00 avg300=0.00 total=7\n"},
                            {"cpu.stat", "usage_usec 7\n"}}) {
    auto fd = OpenPath(Cat(dir, "/", file), O_CREAT | O_WRONLY, 0600);
    ASSERT_TRUE(WriteAll(fd->get(), text).ok());
  }
  auto manager = MakeV2(root, false);
  oci::Resources r;
  r.memory_limit = 8000, r.memory_swap = 12000, r.cpu_shares = 1024, r.cpu_quota = 1234567, r.pids_limit = -1;
  r.cpuset_cpus = "0-1", r.hugepage_limits["2MB"] = 0, r.unified["memory.high"] = "7000";
  absl::Status status = manager->Update("c1", r);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReadText(dir + "/memory.max"), "8000");
  EXPECT_EQ(ReadText(dir + "/memory.swap.max"), "4000");
  EXPECT_EQ(ReadText(dir + "/cpu.weight"), "39");
  EXPECT_EQ(ReadText(dir + "/cpu.max"), "1234567 100000");
  EXPECT_EQ(ReadText(dir + "/pids.max"), "max");
  EXPECT_EQ(ReadText(dir + "/memory.high"), "7000");
  auto stats = manager->Stats("c1");
  EXPECT_EQ(stats->memory_working_set, 4000u);
  EXPECT_EQ(stats->cpu_usage_ns, 7000u);
  EXPECT_EQ(stats->oom_kills, 2u);
  EXPECT_EQ(stats->memory_limit, 8000u);
  EXPECT_EQ(stats->swap_limit, 4000u);
  ASSERT_TRUE(stats->io_pressure);
  EXPECT_EQ(stats->io_pressure->some.total_ns, 12000u);
  EXPECT_EQ(stats->io_pressure->some.avg60, 0.25);
  EXPECT_EQ(stats->io_pressure->full.avg10, 0.5);
  EXPECT_FALSE(stats->cpu_pressure);  // the file is not there
  oci::Resources small;
  small.memory_limit = 3999;
  EXPECT_TRUE(absl::IsFailedPrecondition(manager->Update("c1", small)));
  oci::Resources huge;
  huge.hugepage_limits["2MB"] = 2 << 20;
  EXPECT_TRUE(absl::IsFailedPrecondition(manager->Update("c1", huge)));
  EXPECT_TRUE(RemoveTree(root).ok());
}

// ---- the real kernel

class CgroupKernel : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    auto layout = Discover();
    ASSERT_TRUE(layout.ok()) << layout.status();
    layout_ = *layout;
    auto manager = CgroupManager::Open();
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  }
  void TearDown() override {
    for (CgroupManager* m : {manager_.get(), unified_.get()}) {
      if (m == nullptr) continue;
      EXPECT_TRUE(m->KillAll(top_, 5000).ok());
      while (waitpid(-1, nullptr, 0) > 0) {
      }
      absl::Status status = m->Remove(top_);
      EXPECT_TRUE(status.ok()) << status;
    }
    for (const auto& [name, mount] : layout_.controllers) EXPECT_FALSE(Exists(mount + "/" + top_)) << mount;
  }
  // The bare cgroup2 has freezer, kill and device programs, though no controllers.
  bool OpenUnified() {
    if (layout_.unified.empty()) return false;
    unified_ = MakeV2(layout_.unified, false);
    return true;
  }
  // A child in `path` that runs `body`, after it was put there.
  template <typename Body>
  pid_t Child(CgroupManager& manager, const std::string& path, Body body) {
    auto entry = manager.Entry(path);
    EXPECT_TRUE(entry.ok()) << entry.status();
    if (!entry.ok()) return -1;
    clone_args args{};
    args.exit_signal = SIGCHLD;
    if (entry->unified.valid()) {
      args.flags = CLONE_INTO_CGROUP;
      args.cgroup = static_cast<uint64_t>(entry->unified.get());
    }
    pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
    EXPECT_GE(pid, 0) << errno;
    if (pid == 0) {
      for (const Fd& fd : entry->procs) {
        if (write(fd.get(), "0", 1) != 1) _exit(99);
      }
      body();
      _exit(0);
    }
    return pid;
  }
  static int Wait(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
  }
  std::string File(const std::string& controller, const std::string& path, const std::string& file) {
    std::string root =
        manager_->mode() == CgroupMode::kV2 ? layout_.unified : layout_.controllers[controller];
    std::string text = ReadText(Cat(root, "/", path, "/", file));
    while (text.ends_with('\n')) text.pop_back();
    return text;
  }
  bool v1() const { return manager_->mode() != CgroupMode::kV2; }

  Layout layout_;
  std::unique_ptr<CgroupManager> manager_, unified_;
  const std::string top_ = Cat("cri-sock-test-", getpid());
};

TEST_F(CgroupKernel, LimitsAreSetUpdatedAndPutBack) {
  if (!v1()) GTEST_SKIP() << "reads v1's files";
  std::string path = manager_->PathFor("/" + top_ + "/pod", "c1");
  oci::Resources r;
  r.memory_limit = 64 << 20, r.memory_swap = 64 << 20, r.cpu_shares = 512, r.cpu_period = 50000;
  r.cpu_quota = 25000, r.pids_limit = 20, r.cpuset_cpus = "0", r.hugepage_limits["2MB"] = 0;
  r.devices = {{.allow = false}, {.allow = true, .type = 'c', .major = 1, .minor = 3}};
  absl::Status status = manager_->Create(path, r);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(File("memory", path, "memory.limit_in_bytes"), "67108864");
  EXPECT_EQ(File("memory", path, "memory.memsw.limit_in_bytes"), "67108864");
  EXPECT_EQ(File("cpu", path, "cpu.shares"), "512");
  EXPECT_EQ(File("cpu", path, "cpu.cfs_period_us"), "50000");
  EXPECT_EQ(File("cpu", path, "cpu.cfs_quota_us"), "25000");
  EXPECT_EQ(File("pids", path, "pids.max"), "20");
  EXPECT_EQ(File("cpuset", path, "cpuset.cpus"), "0");
  EXPECT_NE(File("cpuset", path, "cpuset.mems"), "");
  EXPECT_EQ(File("devices", path, "devices.list"), "c 1:3 rwm");

  oci::Resources up;
  up.memory_limit = 128 << 20, up.memory_swap = 256 << 20, up.pids_limit = -1;
  status = manager_->Update(path, up);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(File("memory", path, "memory.limit_in_bytes"), "134217728");
  EXPECT_EQ(File("memory", path, "memory.memsw.limit_in_bytes"), "268435456");
  EXPECT_EQ(File("pids", path, "pids.max"), "max");
  EXPECT_EQ(File("cpu", path, "cpu.shares"), "512");
  EXPECT_EQ(manager_->Stats(path)->memory_limit, 128u << 20);

  oci::Resources bad;  // cpus that no host has come after memory and pids
  bad.memory_limit = 32 << 20, bad.cpu_shares = 100, bad.cpuset_cpus = "4095";
  status = manager_->Update(path, bad);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("cpuset_cpus"));
  EXPECT_EQ(File("memory", path, "memory.limit_in_bytes"), "134217728");
  EXPECT_EQ(File("cpu", path, "cpu.shares"), "512");

  std::string other = manager_->PathFor(top_ + "/other", "c2");
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->Create(other, bad)));
  for (const auto& [name, mount] : layout_.controllers) EXPECT_FALSE(Exists(mount + "/" + top_ + "/other"));
  EXPECT_TRUE(absl::IsNotFound(manager_->Update(other, up)));
  EXPECT_TRUE(absl::IsNotFound(manager_->Stats(other).status()));
  EXPECT_TRUE(manager_->Remove(other).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(manager_->Create(top_ + "/../x", up)));
}

TEST_F(CgroupKernel, LimitsOfVersion2) {
  if (v1()) GTEST_SKIP() << "reads v2's files";
  std::string path = manager_->PathFor("/" + top_ + "/pod", "c1");
  oci::Resources r;
  r.memory_limit = 64 << 20, r.memory_swap = 96 << 20, r.cpu_shares = 512, r.cpu_period = 50000;
  r.cpu_quota = 25000, r.pids_limit = 20, r.cpuset_cpus = "0", r.cpuset_mems = "0";
  r.hugepage_limits["2MB"] = 4 << 20, r.hugepage_limits["77GB"] = 0;
  r.unified["memory.high"] = "50331648", r.unified["memory.oom.group"] = "1";
  absl::Status status = manager_->Create(path, r);
  ASSERT_TRUE(status.ok()) << status;
  auto file = [&](const char* name) { return File("", path, name); };
  EXPECT_EQ(file("memory.max"), "67108864");
  EXPECT_EQ(file("memory.swap.max"), "33554432");
  EXPECT_EQ(file("memory.high"), "50331648");
  EXPECT_EQ(file("memory.oom.group"), "1");
  EXPECT_EQ(file("cpu.weight"), "20");
  EXPECT_EQ(file("cpu.max"), "25000 50000");
  EXPECT_EQ(file("pids.max"), "20");
  EXPECT_EQ(file("cpuset.cpus"), "0");
  EXPECT_EQ(file("cpuset.mems.effective"), "0");
  EXPECT_EQ(file("hugetlb.2MB.max"), "4194304");
  EXPECT_EQ(file("hugetlb.2MB.rsvd.max"), "4194304");

  oci::Resources up;
  up.memory_limit = 128 << 20, up.memory_swap = -1, up.pids_limit = -1, up.cpu_quota = -1;
  status = manager_->Update(path, up);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(file("memory.max"), "134217728");
  EXPECT_EQ(file("memory.swap.max"), "max");
  EXPECT_EQ(file("cpu.max"), "max 50000");
  EXPECT_EQ(file("cpu.weight"), "20");
  EXPECT_EQ(file("pids.max"), "max");

  oci::Resources bad;
  bad.memory_limit = 32 << 20, bad.cpu_shares = 100, bad.cpuset_cpus = "4095";
  status = manager_->Update(path, bad);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("cpuset_cpus"));
  EXPECT_EQ(file("memory.max"), "134217728");
  EXPECT_EQ(file("cpu.weight"), "20");
  oci::Resources unknown;
  unknown.memory_limit = 32 << 20, unknown.unified["memory.nosuch"] = "1";
  status = manager_->Update(path, unknown);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("memory.nosuch"));
  EXPECT_EQ(file("memory.max"), "134217728");
  oci::Resources refused;
  refused.unified["memory.high"] = "many";
  status = manager_->Update(path, refused);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("unified `many`"));
}

TEST_F(CgroupKernel, NoInternalProcessesOnVersion2) {
  if (v1()) GTEST_SKIP() << "v1 has no such rule";
  auto hold = [] {
    for (;;) pause();
  };
  // A pod's cgroup that somebody's process is in can't take containers.
  ASSERT_TRUE(manager_->EnsureParent(top_ + "/pod").ok());
  pid_t in_pod = Child(*manager_, top_ + "/pod", hold);
  while (manager_->Pids(top_ + "/pod")->empty()) sched_yield();
  absl::Status status = manager_->Create(top_ + "/pod/c1", {});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr(top_ + "/pod`: has processes of its own"));
  EXPECT_FALSE(Exists(Cat(layout_.unified, "/", top_, "/pod/c1")));
  kill(in_pod, SIGKILL);
  Wait(in_pod);

  // A container that made a cgroup below its own and went there: who enters it goes there too.
  std::string path = manager_->PathFor(top_ + "/pod", "c1");
  ASSERT_TRUE(manager_->Create(path, {}).ok());
  ASSERT_TRUE(manager_->EnsureParent(path + "/init").ok());  // and hands its controllers down
  pid_t init = Child(*manager_, path + "/init", hold);
  while (manager_->Pids(path + "/init")->empty()) sched_yield();
  pid_t exec = Child(*manager_, path, hold);
  while (manager_->Pids(path)->size() < 2) sched_yield();
  EXPECT_THAT(*manager_->Pids(path + "/init"), ElementsAre(init, exec));
  EXPECT_EQ(manager_->Stats(path)->pids, 2u);
}

TEST_F(CgroupKernel, EntryMovesAChildAndStatsSeeIt) {
  std::string path = manager_->PathFor(top_, "c1");
  ASSERT_TRUE(manager_->Create(path, {}).ok());
  auto ready = MakePipe(), go = MakePipe();
  pid_t pid = Child(*manager_, path, [&] {
    std::vector<char> memory(8 << 20, 'x');
    char c = memory[1000];
    (void)!write(ready->write.get(), &c, 1);
    (void)!read(go->read.get(), &c, 1);
  });
  char c;
  ASSERT_EQ(read(ready->read.get(), &c, 1), 1);
  EXPECT_THAT(*manager_->Pids(path), ElementsAre(pid));
  EXPECT_THAT(*manager_->Pids(top_), ElementsAre(pid));
  auto stats = manager_->Stats(path);
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->pids, 1u);
  EXPECT_GT(stats->cpu_usage_ns, 0u);
  EXPECT_GT(stats->memory_usage, 8u << 20);
  EXPECT_LT(stats->memory_usage, 64u << 20);
  EXPECT_GT(stats->memory_working_set, 8u << 20);
  EXPECT_GT(stats->page_faults, 0u);  // few where the kernel gives huge pages
  EXPECT_EQ(stats->memory_limit, 0u);

  oci::Resources small;  // its anonymous memory can go nowhere
  small.memory_limit = 1 << 20, small.memory_swap = 1 << 20;
  absl::Status status = manager_->Update(path, small);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("current use"));
  EXPECT_EQ(manager_->Stats(path)->memory_limit, 0u);

  EXPECT_TRUE(absl::IsFailedPrecondition(manager_->Remove(path)));
  ASSERT_EQ(write(go->write.get(), "x", 1), 1);
  EXPECT_EQ(Wait(pid), 0);
  EXPECT_TRUE(manager_->Remove(path).ok());
  EXPECT_TRUE(manager_->Remove(path).ok());
}

TEST_F(CgroupKernel, OomKillIsCounted) {
  std::string path = manager_->PathFor(top_, "c1");
  oci::Resources r;
  r.memory_limit = 16 << 20, r.memory_swap = 16 << 20;
  ASSERT_TRUE(manager_->Create(path, r).ok());
  EXPECT_EQ(manager_->Stats(path)->oom_kills, 0u);
  int status = Wait(Child(*manager_, path, [] {
    volatile char* p = static_cast<char*>(
        mmap(nullptr, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t at = 0; at < 64 << 20; at += 4096) p[at] = 1;
  }));
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  EXPECT_EQ(manager_->Stats(path)->oom_kills, 1u);
}

void Bomb() {
  for (;;) fork();
}

TEST_F(CgroupKernel, KillAllEndsAForkBomb) {
  std::string path = manager_->PathFor(top_, "c1");
  oci::Resources r;
  r.pids_limit = 60;
  ASSERT_TRUE(manager_->Create(path, r).ok());
  pid_t pid = Child(*manager_, path, Bomb);
  while (manager_->Stats(path)->pids < 50) sched_yield();
  absl::Status status = manager_->KillAll(top_, 20000);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(*manager_->Pids(path), ElementsAre());
  EXPECT_EQ(WTERMSIG(Wait(pid)), SIGKILL);
  EXPECT_TRUE(manager_->KillAll(top_, 0).ok());
}

TEST_F(CgroupKernel, DevicesAreDenied) {
  for (CgroupManager* m : {manager_.get(), OpenUnified() ? unified_.get() : nullptr}) {
    if (m == nullptr || (v1() && m == manager_.get() && !layout_.controllers.contains("devices"))) continue;
    std::string path = m->PathFor(top_, "c1");
    oci::Resources r;
    r.devices = {{.allow = false}, {.allow = true, .type = 'c', .major = 1, .minor = 3, .access = "r"}};
    absl::Status status = m->Create(path, r);
    ASSERT_TRUE(status.ok()) << status;
    auto seen = [&] {  // bits: null for reading, null for writing, zero
      int code = Wait(Child(*m, path, [] {
        _exit((open("/dev/null", O_RDONLY) >= 0) | (open("/dev/null", O_WRONLY) >= 0) << 1 |
              (open("/dev/zero", O_RDONLY) >= 0) << 2);
      }));
      return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
    };
    EXPECT_EQ(seen(), 1);
    r.devices = {{.allow = false}, {.allow = true, .type = 'c', .major = 1, .minor = 5}};
    EXPECT_TRUE(m->Update(path, r).ok());
    EXPECT_EQ(seen(), 4);
    r.devices = {{.allow = true}};
    EXPECT_TRUE(m->Update(path, r).ok());
    EXPECT_EQ(seen(), 7);
  }
}

TEST_F(CgroupKernel, FrozenIsStillKilledOnBothVersions) {
  for (CgroupManager* m : {manager_.get(), OpenUnified() ? unified_.get() : nullptr}) {
    if (m == nullptr) continue;
    std::string path = m->PathFor(top_ + "/pod", "c1");
    ASSERT_TRUE(m->Create(path, {}).ok());
    pid_t pid = Child(*m, path, [] {
      for (int i = 0; i < 5; ++i) {
        if (fork() == 0) break;
      }
      for (;;) pause();
    });
    while (m->Pids(path)->size() < 6) sched_yield();
    absl::Status status = m->Freeze(path, true);
    ASSERT_TRUE(status.ok()) << status;
    status = m->Freeze(path, false);
    EXPECT_TRUE(status.ok()) << status;
    ASSERT_TRUE(m->Freeze(path, true).ok());
    if (m->mode() == CgroupMode::kV2) {
      EXPECT_EQ(mkdir(Cat(layout_.unified, "/", path, "/nested").c_str(), 0755), 0);
    } else {
      EXPECT_TRUE(m->EnsureParent(path + "/nested").ok());
    }
    status = m->KillAll(path, 10000);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(WTERMSIG(Wait(pid)), SIGKILL);
    status = m->Remove(top_);
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST_F(CgroupKernel, OpenNeedsAKnownDriver) {
  EXPECT_TRUE(absl::IsInvalidArgument(CgroupManager::Open("other").status()));
  absl::Status systemd = CgroupManager::Open("systemd").status();
  if (Exists("/run/systemd/system")) {
    EXPECT_TRUE(absl::IsUnimplemented(systemd)) << systemd;
  } else {
    EXPECT_TRUE(absl::IsFailedPrecondition(systemd)) << systemd;
  }
  EXPECT_THAT(Message(systemd), HasSubstr("cgroup driver `systemd`"));
}

}  // namespace
}  // namespace sock::runtime::cgroup
