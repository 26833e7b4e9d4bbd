#include "runtime/monitor/logger.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <condition_variable>
#include <ctime>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/base/channel.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {
namespace {

constexpr size_t kQueueBytes = 16 << 20;    // of all logs
constexpr size_t kLogQueueBytes = 4 << 20;  // of one log, so that one can't starve the others

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

std::string Timestamp(int64_t ns) {
  time_t seconds = ns / 1000000000;
  tm parts;
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, ns % 1000000000);
}

// A log that both threads hold. `file` belongs to the writer thread; a new one waits in `reopened`.
struct Log {
  Fd file;
  std::mutex mutex;
  Fd reopened;
  bool has_reopened = false;
  size_t queued = 0;  // bytes, under the queue's mutex
  uint64_t dropped = 0;
};

struct Block {
  std::shared_ptr<Log> log;
  std::string text;
};

class Writer {
 public:
  Writer() : thread_([this] { Run(); }) {}

  void Put(const std::shared_ptr<Log>& log, std::string text) {
    std::lock_guard lock(mutex_);
    if (text.empty() && log->dropped == 0) return;
    if (queued_ + text.size() > kQueueBytes || log->queued + text.size() > kLogQueueBytes) {
      for (char c : text) log->dropped += c == '\n';
      return;
    }
    if (log->dropped > 0) {
      std::string note = fmt::format(
          "{} stderr F cri-sock: {} lines were dropped: the log could not be "
          "written fast enough\n",
          Timestamp(NowNs()), std::exchange(log->dropped, 0));
      text.insert(0, note);
    }
    queued_ += text.size();
    log->queued += text.size();
    queue_.push_back({log, std::move(text)});
    wake_.notify_one();
  }

  void Finish() {
    {
      std::lock_guard lock(mutex_);
      finished_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return finished_ || !queue_.empty(); });
      if (queue_.empty()) return;
      Block block = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      {
        std::lock_guard log_lock(block.log->mutex);
        if (std::exchange(block.log->has_reopened, false)) block.log->file = std::move(block.log->reopened);
      }
      std::string_view lost;
      if (block.log->file.valid()) lost = Write(block.log->file.get(), block.text);
      lock.lock();
      queued_ -= block.text.size();
      block.log->queued -= block.text.size();
      for (char c : lost) block.log->dropped += c == '\n';
    }
  }

  // Whole records; gives back those that the disk did not take.
  static std::string_view Write(int file, std::string_view text) {
    size_t done = 0;
    while (done < text.size()) {
      ssize_t n = write(file, text.data() + done, text.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
    if (done == text.size()) return {};
    const size_t whole = done == 0 ? 0 : text.rfind('\n', done - 1) + 1;  // npos + 1 is 0
    // Part of a record would spoil the next one.
    if (off_t end = lseek(file, 0, SEEK_CUR); whole < done && end >= static_cast<off_t>(done - whole))
      (void)!ftruncate(file, end - static_cast<off_t>(done - whole));
    return text.substr(whole);
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Block> queue_;
  size_t queued_ = 0;
  bool finished_ = false;
  std::thread thread_;
};

struct Source {
  Fd pipe;
  LineCutter cutter;
  std::shared_ptr<Log> log;
};

class Reader {
 public:
  Reader(int channel, pid_t keeper)
      : channel_(channel), keeper_(keeper), monitor_(getppid()), epoll_(epoll_create1(EPOLL_CLOEXEC)) {}

  void Run() {
    Watch(channel_);
    std::string buffer(64 << 10, '\0');
    bool open = true;
    while (open || !sources_.empty()) {
      epoll_event events[64];
      int n = epoll_wait(epoll_.get(), events, 64, -1);
      for (int i = 0; i < n; ++i) {
        int fd = events[i].data.fd;
        if (fd == channel_) {
          if (!Command()) {
            open = false;
            epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, channel_, nullptr);
            if (!finish_ && SomebodyGoesOn()) {
              HandOver();
              break;
            }
          }
        } else if (auto it = sources_.find(fd); it != sources_.end()) {
          Read(it, buffer);
        }
      }
    }
    writer_.Finish();
  }

 private:
  void Watch(int fd) {
    epoll_event event{EPOLLIN, {}};
    event.data.fd = fd;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }

  void Read(std::map<int, Source>::iterator it, std::string& buffer) {
    Source& source = it->second;
    ssize_t n = read(it->first, buffer.data(), buffer.size());
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    std::string text;
    if (n > 0)
      source.cutter.Feed({buffer.data(), static_cast<size_t>(n)}, NowNs(), text);
    else  // end of file; a pty's master says EIO
      source.cutter.Finish(NowNs(), text);
    if (!text.empty() || n <= 0) writer_.Put(source.log, std::move(text));
    if (n <= 0) {
      epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, it->first, nullptr);
      sources_.erase(it);
    }
  }

  bool SomebodyGoesOn() const { return getppid() == monitor_ || getppid() == keeper_; }

  // What was read goes to the logs; what lies in the pipes is the next writer's.
  void HandOver() {
    for (auto& [fd, source] : sources_) {
      std::string text;
      source.cutter.Finish(NowNs(), text);
      if (!text.empty()) writer_.Put(source.log, std::move(text));
    }
    sources_.clear();
  }

  bool Command() {
    absl::StatusOr<Message> message = RecvMessage(channel_);
    LogCommand command;
    if (!message.ok() || !command.ParseFromString(message->data)) return false;
    std::vector<Fd>& fds = message->fds;
    if (command.kind() == LogCommand::ADD) {
      size_t pipes = command.has_stderr() ? 2 : 1;
      if (fds.size() != pipes + command.has_log()) return true;
      auto log = std::make_shared<Log>();
      if (command.has_log()) log->file = std::move(fds.back());
      for (size_t i = 0; i < pipes; ++i) {
        fcntl(fds[i].get(), F_SETFL, O_NONBLOCK);
        int fd = fds[i].get();
        sources_.insert_or_assign(fd,
                                  Source{std::move(fds[i]), LineCutter(i == 0 ? "stdout" : "stderr"), log});
        Watch(fd);
      }
      logs_[command.id()] = log;
    } else if (command.kind() == LogCommand::REOPEN && fds.size() == 1) {
      if (auto it = logs_.find(command.id()); it != logs_.end()) {
        std::lock_guard lock(it->second->mutex);
        it->second->reopened = std::move(fds[0]);
        it->second->has_reopened = true;
      }
    } else if (command.kind() == LogCommand::FINISH) {
      finish_ = true;
    } else if (command.kind() == LogCommand::REMOVE) {
      logs_.erase(command.id());  // its sources hold it until their end
    }
    return true;
  }

  const int channel_;
  const pid_t keeper_, monitor_;
  bool finish_ = false;
  Fd epoll_;
  std::map<int, Source> sources_;
  std::map<std::string, std::shared_ptr<Log>> logs_;
  Writer writer_;
};

}  // namespace

void LineCutter::Record(std::string_view text, bool whole, int64_t now_ns, std::string& log) {
  log += Timestamp(now_ns);
  log += ' ';
  log += stream_;
  log += whole ? " F " : " P ";
  log += text;
  log += '\n';
}

void LineCutter::Feed(std::string_view data, int64_t now_ns, std::string& log) {
  while (!data.empty()) {
    size_t newline = data.find('\n');
    size_t room = kMaxLine - pending_.size();
    if (newline != std::string_view::npos && newline <= room) {
      pending_ += data.substr(0, newline);
      Record(pending_, true, now_ns, log);
      pending_.clear();
      data.remove_prefix(newline + 1);
    } else if (data.size() > room) {
      pending_ += data.substr(0, room);
      Record(pending_, false, now_ns, log);
      pending_.clear();
      data.remove_prefix(room);
    } else {
      pending_ += data;
      return;
    }
  }
}

void LineCutter::Finish(int64_t now_ns, std::string& log) {
  if (pending_.empty()) return;
  Record(pending_, false, now_ns, log);
  pending_.clear();
}

void RunLogger(int channel, pid_t keeper) {
  prctl(PR_SET_NAME, "sock-logger");
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  Reader(channel, keeper).Run();
  _exit(0);
}

}  // namespace sock::runtime::monitor
