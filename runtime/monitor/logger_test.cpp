// The log writer is killed, at every system call and at random points under load: what it wrote must be what
// containers said. CRI_SOCK_KILL_SEED repeats a run as far as time allows.
#include "runtime/monitor/logger.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/base/channel.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "runtime/monitor/log_queue.h"
#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LineCutter, CutsLongLinesAndKeepsTheRest) {
  LineCutter cutter("stdout");
  std::string log;
  cutter.Feed("one\ntw", 1, log);
  EXPECT_EQ(log, "1970-01-01T00:00:00.000000001Z stdout F one\n");
  log.clear();
  cutter.Feed("o\n", 1, log);
  EXPECT_EQ(log, "1970-01-01T00:00:00.000000001Z stdout F two\n");
  log.clear();
  cutter.Feed(std::string(LineCutter::kMaxLine + 1, 'x') + "\n", 1, log);
  EXPECT_THAT(log, HasSubstr(" P " + std::string(LineCutter::kMaxLine, 'x') + "\n"));
  EXPECT_THAT(log, HasSubstr(" F x\n"));
}

// What follows the time of each record of `stream`.
std::vector<std::string> Records(const std::string& log, const std::string& stream) {
  std::vector<std::string> records;
  EXPECT_TRUE(log.empty() || log.back() == '\n');
  for (size_t at = 0; at < log.size();) {
    const size_t end = log.find('\n', at), time = log.find(' ', at);
    const std::string record = log.substr(time + 1, end - time - 1);
    EXPECT_TRUE(time < end && log[time - 1] == 'Z' &&
                (record.starts_with("stdout ") || record.starts_with("stderr ")))
        << record.substr(0, 100);
    if (record.starts_with(stream + " ")) records.push_back(record.substr(stream.size() + 1));
    at = end + 1;
  }
  return records;
}

std::vector<std::string> Expected(const std::string& output, const std::string& stream) {
  LineCutter cutter(stream);
  std::string log;
  cutter.Feed(output, 1, log);
  cutter.Finish(1, log);
  return Records(log, stream);
}

// A log and what belongs to it, as the monitor holds them.
struct TestLog {
  explicit TestLog(size_t desk_bytes = 0) {
    auto made = LogQueue::MakeMemory();
    EXPECT_TRUE(made.ok()) << made.status();
    memory = *std::move(made);
    auto pipe = Desk::MakePipe();
    EXPECT_TRUE(pipe.ok()) << pipe.status();
    if (desk_bytes > 0) fcntl(pipe->write.get(), F_SETPIPE_SZ, desk_bytes);
    desk_pipe = *std::move(pipe);
    for (Pipe& out : pipes) out = *MakePipe(O_NONBLOCK);
    file = Fd(open("/tmp", O_TMPFILE | O_RDWR | O_APPEND | O_CLOEXEC, 0600));
    EXPECT_TRUE(file.valid());
  }
  std::unique_ptr<LogQueue> Open() {
    auto queue = LogQueue::Open(memory.get(), of_all);
    EXPECT_TRUE(queue.ok()) << queue.status();
    return *std::move(queue);
  }
  Desk OpenDesk() {
    auto desk = Desk::Open({*desk_pipe.read.Dup(), *desk_pipe.write.Dup()});
    EXPECT_TRUE(desk.ok()) << desk.status();
    return *std::move(desk);
  }
  void Say(std::string_view text, int stream = 0) {
    ASSERT_EQ(write(pipes[stream].write.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  std::string Text() const { return *ReadFile(Cat("/proc/self/fd/", file.get())); }
  long Pages() const {
    struct stat st;
    EXPECT_EQ(fstat(memory.get(), &st), 0);
    return st.st_blocks * 512 / 4096;
  }
  Fd memory, file;
  Pipe desk_pipe, pipes[2];
  std::atomic<size_t> of_all{0};
};

// A log writer's life, in one thread: both streams to their end, all written.
void TakeAndWriteAll(TestLog& log) {
  Desk desk = log.OpenDesk();
  desk.Own();
  std::unique_ptr<LogQueue> queue = log.Open();
  queue->Settle(desk);
  bool open[2] = {true, true};
  while (open[0] || open[1]) {
    for (LogQueue::Stream stream : {LogQueue::kStdout, LogQueue::kStderr})
      open[stream] = open[stream] && queue->Take(stream, log.pipes[stream].read.get(), desk);
    queue->Write(log.file.get());
  }
  while (queue->Write(log.file.get())) {
  }
}

// Runs `child` and kills it at its `stop`th stop before or after a system call; false: it had ended before.
bool KillAtSystemCall(int stop, const std::function<void()>& child) {
  const pid_t pid = fork();
  if (pid == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    child();
    _exit(0);
  }
  int status = 0;
  for (int i = 0; i <= stop; ++i) {
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    if (!WIFSTOPPED(status)) {
      EXPECT_EQ(status, 0);
      return false;
    }
    if (i < stop) ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
  }
  kill(pid, SIGKILL);
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status));
  return true;
}

TEST(LogQueue, IsGoneOnWithAfterEverySystemCall) {
  std::string output[2];
  for (int i = 0; output[0].size() < 10000; ++i) output[0] += Cat(i, std::string(i * 37 % 700, 'x'), "\n");
  output[1] = std::string(LineCutter::kMaxLine + 1000, 'y') + "\nno newline";
  int stop = 0;
  for (bool killed = true; killed && !testing::Test::HasFailure(); ++stop) {
    TestLog log(4096);  // so that many steps are needed
    for (int stream : {0, 1}) {
      log.Say(output[stream], stream);
      log.pipes[stream].write.Reset();
    }
    killed = KillAtSystemCall(stop, [&] { TakeAndWriteAll(log); });
    TakeAndWriteAll(log);
    EXPECT_EQ(Records(log.Text(), "stdout"), Expected(output[0], "stdout")) << "killed at stop " << stop;
    EXPECT_EQ(Records(log.Text(), "stderr"), Expected(output[1], "stderr")) << "killed at stop " << stop;
  }
  EXPECT_GT(stop, 50);
}

TEST(LogQueue, ATerminalIsAPipeLikeOthers) {
  TestLog log;
  Desk desk = log.OpenDesk();
  std::unique_ptr<LogQueue> queue = log.Open();
  Fd master(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_EQ(unlockpt(master.get()), 0);
  Fd slave(ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_EQ(write(slave.get(), "one\ntwo", 7), 7);
  EXPECT_TRUE(queue->Take(LogQueue::kStdout, master.get(), desk));
  EXPECT_TRUE(queue->Take(LogQueue::kStdout, master.get(), desk));  // nothing there
  slave.Reset();
  EXPECT_FALSE(queue->Take(LogQueue::kStdout, master.get(), desk));
  EXPECT_TRUE(queue->Write(log.file.get()));
  EXPECT_THAT(Records(log.Text(), "stdout"), ElementsAre("F one\r", "P two"));
}

TEST(LogQueue, IsLean) {
  TestLog log;
  Desk desk = log.OpenDesk();
  std::unique_ptr<LogQueue> queue = log.Open();
  for (int i = 0; i < 1000; ++i) {
    log.Say("a line of a log that is not a long one\n");
    EXPECT_TRUE(queue->Take(LogQueue::kStdout, log.pipes[0].read.get(), desk));
    EXPECT_TRUE(queue->Write(log.file.get()));
  }
  EXPECT_FALSE(queue->Write(log.file.get()));
  EXPECT_EQ(log.Pages(), 2);
}

TEST(LogQueue, DropsWhatIsTooMuchAndSaysSo) {
  TestLog log;
  Desk desk = log.OpenDesk();
  const std::string line(1023, 'x'), kilobytes = [&] {
    std::string all;
    for (int i = 0; i < 32; ++i) all += line + "\n";
    return all;
  }();
  std::unique_ptr<LogQueue> queue = log.Open();
  for (int i = 0; i < 192; ++i) {  // 6 MiB
    log.Say(kilobytes);
    EXPECT_TRUE(queue->Take(LogQueue::kStdout, log.pipes[0].read.get(), desk));
    if (i % 10 == 0) queue = log.Open();  // what is in hand, and what is dropped, outlives the writer
  }
  EXPECT_LE(log.of_all, LogQueue::kMaxBytes);
  EXPECT_GT(log.of_all, LogQueue::kMaxBytes - 2 * kilobytes.size());
  while (queue->Write(log.file.get())) {
  }
  EXPECT_EQ(log.of_all, 0u);
  EXPECT_LT(log.Pages(), 30);
  log.Say("after\n");
  EXPECT_TRUE(queue->Take(LogQueue::kStdout, log.pipes[0].read.get(), desk));
  EXPECT_TRUE(queue->Write(log.file.get()));
  auto records = Records(log.Text(), "stdout");
  ASSERT_FALSE(records.empty());
  EXPECT_EQ(records.back(), "F after");
  EXPECT_THAT(Records(log.Text(), "stderr"),
              ElementsAre(Cat("F cri-sock: ", 192 * 32 - (records.size() - 1),
                              " lines were dropped: the log could not be written fast enough")));
}

TEST(LogQueue, KnowsWhatAnotherProgramLaidOut) {
  TestLog log;
  EXPECT_TRUE(LogQueue::Understands(log.memory.get()));
  EXPECT_FALSE(LogQueue::Understands(-1));
  const uint64_t other = ~0ull;
  ASSERT_EQ(pwrite(log.memory.get(), &other, sizeof other, 0), static_cast<ssize_t>(sizeof other));
  EXPECT_FALSE(LogQueue::Understands(log.memory.get()));
}

// The monitor's part: log writers come and go, containers write, logs are rotated.
class LogWriters {
 public:
  static constexpr int kLogs = 2;
  struct Shared {
    std::atomic<bool> over;
    std::atomic<long> lines[kLogs][2];
  };

  explicit LogWriters(unsigned seed) : random_(seed) {
    char name[] = "/tmp/logger_test.XXXXXX";
    directory_ = mkdtemp(name);
    desk_ = *Desk::MakePipe();
    shared_ = static_cast<Shared*>(
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (int i = 0; i < kLogs; ++i) {
      Log& log = logs_[i];
      log.memory = *LogQueue::MakeMemory();
      log.file = Open(log, i);
      for (int stream : {0, 1}) {
        Pipe pipe = *MakePipe();
        log.pipes[stream] = std::move(pipe.read);
        containers_.push_back(fork());
        if (containers_.back() == 0) Contain(std::move(pipe.write), i, stream, random_());
      }
    }
  }
  ~LogWriters() {
    munmap(shared_, sizeof(Shared));
    EXPECT_TRUE(RemoveTree(directory_).ok());
  }

  void Start() {
    ChannelPair channel = *MakeChannel();
    pids_.push_back(fork());
    if (pids_.back() == 0) {
      channel.a.Reset();
      channel_.Reset();
      RunLogger(channel.b.get(), getppid(), std::move(desk_));
    }
    channel_ = std::move(channel.a);
    for (int i = 0; i < kLogs; ++i) {
      LogCommand add;
      add.set_id(Cat(i));
      add.set_has_stderr(true);
      add.set_has_log(true);
      add.set_has_next_log(logs_[i].next.valid());
      std::vector<int> fds;
      for (const Fd* fd :
           {&logs_[i].pipes[0], &logs_[i].pipes[1], &logs_[i].file, &logs_[i].next, &logs_[i].memory})
        if (fd->valid()) fds.push_back(fd->get());
      EXPECT_TRUE(SendMessage(channel_.get(), add.SerializeAsString(), fds).ok());
    }
    Tell(LogCommand::BEGIN);
  }

  // For a while, in which some logs are rotated.
  void Live() {
    for (int i = 0; i < kLogs; ++i) {
      if (random_() % 4 != 0 || logs_[i].next.valid()) continue;
      logs_[i].next = Open(logs_[i], i);
      LogCommand reopen;
      reopen.set_id(Cat(i));
      reopen.set_kind(LogCommand::REOPEN);
      const int fd = logs_[i].next.get();
      SendMessage(channel_.get(), reopen.SerializeAsString(), {&fd, 1}).IgnoreError();
    }
    timespec rest{0, static_cast<long>(random_() % 3000000)};
    for (pollfd said{channel_.get(), POLLIN, 0}; ppoll(&said, 1, &rest, nullptr) > 0;) {
      auto message = RecvMessage(channel_.get());
      LogCommand done;
      if (!message.ok() || !done.ParseFromString(message->data)) break;
      Log& log = logs_[atoi(done.id().c_str())];
      log.file = std::move(log.next);
      ++rotations_;
    }
  }

  void Kill() {
    kill(pids_.back(), SIGKILL);
    Wait();
  }
  // It has only heard that it is over when the next one comes.
  void HandOver() { channel_.Reset(); }
  void Upgrade() {
    Tell(LogCommand::HAND_OVER);
    channel_.Reset();
  }

  void Finish() {
    shared_->over = true;
    Tell(LogCommand::FINISH);
    channel_.Reset();
    for (pid_t pid : containers_) EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
    Wait();
    for (int i = 0; i < kLogs; ++i) {
      std::string log;
      for (int part = 0; part < logs_[i].parts; ++part)
        log += *ReadFile(Cat(directory_, "/", i, ".", part), 1 << 30);
      for (int stream : {0, 1}) Check(log, i, stream);
    }
    printf("%d rotations\n", rotations_);
    EXPECT_GT(rotations_, 10);
  }

 private:
  struct Log {
    Fd memory, pipes[2], file, next;
    int parts = 0;
  };

  Fd Open(Log& log, int number) const {
    auto file = OpenPath(Cat(directory_, "/", number, ".", log.parts++), O_WRONLY | O_CREAT | O_APPEND, 0600);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }
  void Tell(LogCommand::Kind kind) {
    LogCommand command;
    command.set_kind(kind);
    SendMessage(channel_.get(), command.SerializeAsString()).IgnoreError();
  }
  void Wait() {
    for (pid_t pid : pids_) EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
    pids_.clear();
  }

  // Most lines are short, some longer than a record.
  static std::string Line(int log, int stream, long number) {
    const auto mixed = static_cast<uint64_t>(number * 4 + log * 2 + stream) * 0x9E3779B97F4A7C15;
    const size_t length = mixed % 512 == 0 ? mixed / 512 % 40000 : mixed / 512 % 150;
    return Cat(number, " ", std::string(length, static_cast<char>('a' + mixed / 512 % 26)), "\n");
  }

  // In pieces that have nothing to do with lines.
  [[noreturn]] void Contain(Fd pipe, int log, int stream, unsigned seed) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::mt19937 random(seed);
    std::string said;
    long lines = 0;
    while (!shared_->over || !said.empty()) {
      while (!shared_->over && said.size() < 20000) said += Line(log, stream, lines++);
      const size_t piece = std::min<size_t>(said.size(), 1 + random() % (random() % 8 == 0 ? 20000 : 500));
      if (!WriteAll(pipe.get(), said.substr(0, piece)).ok()) _exit(1);
      said.erase(0, piece);
      const timespec rest{0, static_cast<long>(random() % 500000)};
      nanosleep(&rest, nullptr);
    }
    shared_->lines[log][stream] = lines;
    _exit(0);
  }

  void Check(const std::string& log, int number, int stream) const {
    std::string text;
    long next = 0;
    for (const std::string& record : Records(log, stream == 0 ? "stdout" : "stderr")) {
      ASSERT_TRUE(record.starts_with("F ") || record.starts_with("P "));
      text += record.substr(2);
      if (record[0] == 'P') continue;
      ASSERT_EQ(text + "\n", Line(number, stream, next)) << "log " << number << ", stream " << stream;
      text.clear();
      ++next;
    }
    EXPECT_EQ(next, shared_->lines[number][stream]);
    EXPECT_GT(next, 1000);
  }

  std::mt19937 random_;
  std::string directory_;
  Pipe desk_;
  Shared* shared_;
  Log logs_[kLogs];
  std::vector<pid_t> containers_, pids_;
  Fd channel_;
  int rotations_ = 0;
};

TEST(Logger, IsKilledAThousandTimesAndLosesNothing) {
  const char* given = getenv("CRI_SOCK_KILL_SEED");
  const unsigned seed =
      given != nullptr ? static_cast<unsigned>(atoi(given)) : static_cast<unsigned>(time(nullptr));
  printf("CRI_SOCK_KILL_SEED=%u\n", seed);
  std::mt19937 random(seed);
  LogWriters writers(random());
  for (int i = 0; i < 1000; ++i) {
    writers.Start();
    writers.Live();
    switch (random() % 8) {
      case 0:
        writers.HandOver();
        break;
      case 1:
        writers.Upgrade();
        break;
      default:
        writers.Kill();
    }
  }
  writers.Start();
  writers.Finish();
}

}  // namespace
}  // namespace sock::runtime::monitor
