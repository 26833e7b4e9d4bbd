#include "runtime/monitor/logger.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/base/channel.h"
#include "runtime/monitor/log_queue.h"
#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {
namespace {

struct Log {
  std::string id;
  Fd memory;  // until the queue is opened
  std::unique_ptr<LogQueue> queue;
  Fd file;  // the writer thread's
  Fd next;  // opened anew, not used yet; under the writer's mutex, as what follows
  bool listed = false;
};

class Writer {
 public:
  // `owned`: an eventfd that tells when the desk is ours. Tells `channel` of every log that it has opened
  // anew.
  Writer(const Desk& desk, int owned, int channel)
      : channel_(channel), thread_([this, &desk, owned] {
          desk.Own();
          eventfd_write(owned, 1);
          Run();
        }) {}

  // `log` has something to write.
  void Wake(const std::shared_ptr<Log>& log) {
    std::lock_guard lock(mutex_);
    List(log);
  }

  void Reopen(const std::shared_ptr<Log>& log, Fd file) {
    std::lock_guard lock(mutex_);
    log->next = std::move(file);
    List(log);
  }

  enum class End { kOnceAllIsWritten, kNow };
  void Finish(End end) {
    {
      std::lock_guard lock(mutex_);
      finished_ = true;
      stopped_ = end == End::kNow;
    }
    wake_.notify_one();
    thread_.join();
  }

 private:
  void List(const std::shared_ptr<Log>& log) {
    if (std::exchange(log->listed, true)) return;
    logs_.push_back(log);
    wake_.notify_one();
  }

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return finished_ || !logs_.empty(); });
      if (stopped_ || logs_.empty()) return;
      std::shared_ptr<Log> log = std::move(logs_.front());
      logs_.pop_front();
      log->listed = false;
      Fd next = std::move(log->next);
      lock.unlock();
      if (next.valid()) {
        // What a writer before this one has begun belongs where it began it.
        if (log->queue->HasBegun(log->file.get())) log->queue->Write(log->file.get());
        log->file = std::move(next);
        LogCommand done;
        done.set_kind(LogCommand::REOPEN);
        done.set_id(log->id);
        SendMessage(channel_, done.SerializeAsString()).IgnoreError();
      }
      const bool more = log->queue->Write(log->file.get());
      lock.lock();
      if (more) List(log);
    }
  }

  const int channel_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Log>> logs_;  // that have something to write, or are to be opened anew
  bool finished_ = false, stopped_ = false;
  std::thread thread_;
};

struct Source {
  Fd pipe;
  LogQueue::Stream stream;
  std::shared_ptr<Log> log;
};

class Reader {
 public:
  Reader(int channel, pid_t keeper, Desk desk)
      : channel_(channel),
        keeper_(keeper),
        monitor_(getppid()),
        desk_(std::move(desk)),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        owned_(eventfd(0, EFD_CLOEXEC)),
        writer_(desk_, owned_.get(), channel) {}

  void Run() {
    Watch(channel_);
    Watch(owned_.get());
    bool open = true;
    while (open || !sources_.empty()) {
      epoll_event events[64];
      int n = epoll_wait(epoll_.get(), events, 64, -1);
      for (int i = 0; i < n; ++i) {
        int fd = events[i].data.fd;
        if (fd == channel_) {
          if (!Command()) {
            if (hand_over_ || (!finish_ && SomebodyGoesOn())) return HandOver();
            open = false;
            all_told_ = true;
            Unwatch(channel_);
          }
        } else if (fd == owned_.get()) {
          owns_ = true;
          Unwatch(owned_.get());
        } else if (auto it = sources_.find(fd); it != sources_.end()) {
          Read(it);
        }
        Begin();
      }
    }
    writer_.Finish(Writer::End::kOnceAllIsWritten);
  }

 private:
  void Watch(int fd) {
    epoll_event event{EPOLLIN, {}};
    event.data.fd = fd;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }
  void Unwatch(int fd) { epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  // Once the desk is ours and it is known whose there may be something on it.
  void Begin() {
    if (begun_ || !owns_ || !all_told_) return;
    begun_ = true;
    for (auto& [fd, source] : sources_) OpenQueue(*source.log);
    desk_.Clear();  // of one that is gone
    for (auto& [fd, source] : sources_) {
      Watch(fd);
      writer_.Wake(source.log);
    }
  }

  void OpenQueue(Log& log) {
    if (log.queue) return;
    auto queue = LogQueue::Open(log.memory.get(), bytes_in_hand_);
    if (!queue.ok()) _exit(1);  // as where any memory is wanting: the next one tries again
    log.queue = *std::move(queue);
    log.memory.Reset();
    log.queue->Settle(desk_);
  }

  void Read(std::map<int, Source>::iterator it) {
    Source& source = it->second;
    const bool open = source.log->queue->Take(source.stream, it->first, desk_);
    writer_.Wake(source.log);
    if (open) return;
    Unwatch(it->first);
    sources_.erase(it);
  }

  bool SomebodyGoesOn() const { return getppid() == monitor_ || getppid() == keeper_; }

  // What is in hand is the next one's, but where that may be of another program, which would lay it out
  // otherwise.
  void HandOver() {
    if (!begun_) return;
    if (hand_over_) {
      for (auto& [fd, source] : sources_) {
        source.log->queue->Finish(source.stream);
        writer_.Wake(source.log);
      }
    }
    writer_.Finish(hand_over_ ? Writer::End::kOnceAllIsWritten : Writer::End::kNow);
  }

  // False: it was the last one.
  bool Command() {
    absl::StatusOr<Message> message = RecvMessage(channel_);
    LogCommand command;
    if (!message.ok() || !command.ParseFromString(message->data)) return false;
    std::vector<Fd>& fds = message->fds;
    switch (command.kind()) {
      case LogCommand::ADD:
        Add(command, std::move(fds));
        break;
      case LogCommand::REOPEN:
        if (auto it = logs_.find(command.id()); it != logs_.end() && fds.size() == 1) {
          if (begun_)
            writer_.Reopen(it->second, std::move(fds[0]));
          else
            it->second->next = std::move(fds[0]);
        }
        break;
      case LogCommand::FINISH:
        finish_ = true;
        break;
      case LogCommand::REMOVE:
        logs_.erase(command.id());  // its sources hold it until their end
        break;
      case LogCommand::BEGIN:
        all_told_ = true;
        break;
      case LogCommand::HAND_OVER:
        hand_over_ = true;
        return false;
      default:
        break;
    }
    return true;
  }

  void Add(const LogCommand& command, std::vector<Fd> fds) {
    const size_t pipes = command.has_stderr() ? 2 : 1;
    if (fds.size() != pipes + command.has_log() + command.has_next_log() + 1) return;
    auto log = std::make_shared<Log>();
    log->id = command.id();
    log->memory = std::move(fds.back());
    if (begun_) OpenQueue(*log);
    if (command.has_log()) log->file = std::move(fds[pipes]);
    if (command.has_next_log()) log->next = std::move(fds[pipes + command.has_log()]);
    for (size_t i = 0; i < pipes; ++i) {
      fcntl(fds[i].get(), F_SETFL, O_NONBLOCK);
      const int fd = fds[i].get();
      sources_.insert_or_assign(
          fd, Source{std::move(fds[i]), i == 0 ? LogQueue::kStdout : LogQueue::kStderr, log});
      if (begun_) Watch(fd);
    }
    logs_[command.id()] = log;
  }

  const int channel_;
  const pid_t keeper_, monitor_;
  // Nothing more is told; hand all over to another program; the desk is ours; its first logs are all known.
  bool finish_ = false, hand_over_ = false, owns_ = false, all_told_ = false, begun_ = false;
  Desk desk_;
  Fd epoll_, owned_;
  std::atomic<size_t> bytes_in_hand_{0};
  std::map<int, Source> sources_;
  std::map<std::string, std::shared_ptr<Log>> logs_;
  Writer writer_;
};

}  // namespace

void RunLogger(int channel, pid_t keeper, Pipe desk) {
  prctl(PR_SET_NAME, "sock-logger");
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  absl::StatusOr<Desk> opened = Desk::Open(std::move(desk));
  if (!opened.ok()) _exit(1);
  Reader reader(channel, keeper, *std::move(opened));
  reader.Run();
  _exit(0);
}

}  // namespace sock::runtime::monitor
