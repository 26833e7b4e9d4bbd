#include "runtime/monitor/client.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "runtime/base/channel.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime::monitor {
namespace {

// Forks twice, so that the monitor is nobody's child, in a session of its own. Its listening socket is made
// here and inherited: who connects now waits until it accepts.
absl::Status Spawn(const std::string& socket_path, const std::string& program) {
  ASSIGN_OR_RETURN(Fd listener, ListenChannel(socket_path));
  ASSIGN_OR_RETURN(Pipe failed, MakePipe());
  char keep[] = "keep", number[] = "3";
  char* argv[] = {const_cast<char*>(program.c_str()), keep, number, nullptr};
  pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, "fork the monitor");
  if (child == 0) {
    setsid();
    if (fork() != 0) _exit(0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int report = fcntl(failed.write.get(), F_DUPFD_CLOEXEC, 10);
    int high = fcntl(listener.get(), F_DUPFD_CLOEXEC, 10);
    for (int i = 0; i < 3; ++i) dup2(null, i);
    dup2(high, 3);  // without CLOEXEC
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execv(argv[0], argv);
    int err = errno;
    [[maybe_unused]] ssize_t n = write(report, &err, sizeof err);
    _exit(127);
  }
  failed.write.Reset();
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  int err = 0;
  if (read(failed.read.get(), &err, sizeof err) == sizeof err)
    return ErrnoStatus(err, Cat("execute `", program, "`"));
  return absl::OkStatus();
}

}  // namespace

std::string ProgramIdentity(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) < 0) return "";
  return Cat(info.st_dev, ":", info.st_ino, ":", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec);
}

absl::StatusOr<std::unique_ptr<Client>> Client::Open(const std::string& socket_path,
                                                     const std::string& program, const std::string& identity,
                                                     const std::function<void(const Exit&)>& on_exit,
                                                     const std::function<void()>& on_lost) {
  absl::Status last;
  bool spawned = false;
  int upgrades = 0;
  // One that ends or is upgraded just now is tried again; a program that never speaks is given up.
  for (int attempt = 0; attempt < 20; ++attempt) {
    if (attempt > 2) poll(nullptr, 0, 50);
    auto socket = ConnectChannel(socket_path);
    if (!socket.ok()) {
      RETURN_IF_ERROR_AS(Spawn(socket_path, program), "start the monitor");
      spawned = true;
      socket = ConnectChannel(socket_path);
    }
    if (!socket.ok()) {
      last = socket.status();
      continue;
    }
    // `on_lost` is for one that was known to live.
    auto greeted = std::make_shared<std::atomic<bool>>(false);
    std::unique_ptr<Client> client(new Client(*std::move(socket), on_exit, [greeted, on_lost] {
      if (*greeted && on_lost) on_lost();
    }));
    Request request;
    request.mutable_hello()->set_version(kVersion);
    absl::StatusOr<Answer> answer = client->Call(request);
    if (!answer.ok()) {
      last = Annotate(answer.status(), "greet the monitor");
      continue;
    }
    if (answer->reply.version() == kVersion &&
        (spawned || identity.empty() || answer->reply.program() == identity)) {
      *greeted = true;
      if (!client->lost()) return client;
      last = absl::UnavailableError("the monitor is gone");
      continue;
    }
    last = absl::FailedPreconditionError(Cat("the running monitor speaks version ", answer->reply.version(),
                                             ", this daemon ", kVersion, ", and it does not become `",
                                             program, "`: does that run?"));
    if (++upgrades > 3) return last;
    request.mutable_upgrade()->set_program(program);
    client->Call(request).status().IgnoreError();
  }
  return last;
}

Client::Client(Fd socket, std::function<void(const Exit&)> on_exit, std::function<void()> on_lost)
    : socket_(std::move(socket)),
      on_exit_(std::move(on_exit)),
      on_lost_(std::move(on_lost)),
      reader_([this] { Read(); }),
      dispatcher_([this] { Dispatch(); }) {}

Client::~Client() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  shutdown(socket_.get(), SHUT_RDWR);
  reader_.join();
  dispatcher_.join();
}

absl::StatusOr<Answer> Client::Call(Request request, std::span<const int> fds,
                                    std::chrono::milliseconds timeout) {
  std::future<absl::StatusOr<Answer>> future;
  uint64_t serial;
  {
    std::lock_guard lock(mutex_);
    if (lost_) return absl::UnavailableError("the monitor is gone");
    serial = next_serial_++;
    future = waiting_[serial].get_future();
  }
  request.set_serial(serial);
  absl::Status sent;
  {
    std::lock_guard lock(send_mutex_);
    sent = SendMessage(socket_.get(), request.SerializeAsString(), fds);
  }
  if (!sent.ok()) {
    shutdown(socket_.get(), SHUT_RDWR);  // the reader tells whom it concerns
    std::lock_guard lock(mutex_);
    lost_ = lost_ || absl::IsUnavailable(sent);
    waiting_.erase(serial);
    return Annotate(sent, "send to the monitor");
  }
  if (timeout.count() > 0 && future.wait_for(timeout) != std::future_status::ready) {
    std::lock_guard lock(mutex_);
    if (waiting_.erase(serial) > 0)
      return absl::DeadlineExceededError(Cat("no answer within ", timeout.count(), " ms"));
  }
  absl::StatusOr<Answer> answer = future.get();
  if (!answer.ok()) return answer;
  const Reply& reply = answer->reply;
  if (reply.code() == 0) return answer;
  if (reply.errno_value() == 0)
    return absl::Status(static_cast<absl::StatusCode>(reply.code()), reply.message());
  // The text ends with errno's already: the payload alone is wanted.
  absl::Status status(static_cast<absl::StatusCode>(reply.code()), reply.message());
  ErrnoStatus(reply.errno_value(), "").ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    status.SetPayload(url, payload);
  });
  return status;
}

bool Client::lost() {
  std::lock_guard lock(mutex_);
  return lost_;
}

void Client::Deliver() {
  std::lock_guard lock(mutex_);
  deliver_ = true;
  wake_.notify_all();
}

void Client::Read() {
  while (true) {
    absl::StatusOr<Message> message = RecvMessage(socket_.get());
    FromMonitor from;
    if (!message.ok() || !from.ParseFromString(message->data)) break;
    std::lock_guard lock(mutex_);
    if (from.has_exit()) {
      exits_.push_back(from.exit());
      wake_.notify_all();
    } else if (auto node = waiting_.extract(from.reply().serial())) {
      node.mapped().set_value(Answer{std::move(*from.mutable_reply()), std::move(message->fds)});
    }
  }
  std::unique_lock lock(mutex_);
  lost_ = true;
  for (auto& [serial, promise] : waiting_) promise.set_value(absl::UnavailableError("the monitor is gone"));
  waiting_.clear();
  wake_.notify_all();
  const bool closing = closing_;
  lock.unlock();
  // Not by the other thread: it may be within on_exit_, waiting for the monitor that on_lost_ finds.
  if (!closing && on_lost_) on_lost_();
}

void Client::Dispatch() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return closing_ || lost_ || (deliver_ && !exits_.empty()); });
    if (closing_) return;
    if (deliver_ && !exits_.empty()) {
      Exit exit = std::move(exits_.front());
      exits_.pop_front();
      lock.unlock();
      on_exit_(exit);
      lock.lock();
    } else if (lost_) {
      return;
    }
  }
}

}  // namespace sock::runtime::monitor
