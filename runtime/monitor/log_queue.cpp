#include "runtime/monitor/log_queue.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime::monitor {
namespace {

constexpr size_t kPipeBytes = 64 << 10;    // of one step
constexpr size_t kWriteBytes = 256 << 10;  // of one write(2)
constexpr size_t kNoteBytes = 256;         // of what tells that lines were dropped
constexpr size_t kKeptBytes = 64 << 10;    // of an empty queue

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

uint64_t Lines(std::string_view text) {
  return static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
}

// Writes what follows the first `done` bytes of `text`, whole records; gives back those that the disk did not
// take.
std::string_view WriteRecords(int file, std::string_view text, size_t done) {
  while (done < text.size()) {
    const ssize_t n = write(file, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  if (done == text.size()) return {};
  const size_t whole = done == 0 ? 0 : text.rfind('\n', done - 1) + 1;  // npos + 1 is 0
  // Part of a record would spoil the next one.
  const auto part = static_cast<off_t>(done - whole);
  if (struct stat st; part > 0 && fstat(file, &st) == 0 && st.st_size >= part)
    (void)!ftruncate(file, st.st_size - part);
  return text.substr(whole);
}

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

absl::StatusOr<Pipe> Desk::MakePipe() { return sock::MakePipe(O_NONBLOCK); }

absl::StatusOr<Desk> Desk::Open(Pipe pipe) {
  Desk desk;
  ASSIGN_OR_RETURN(desk.copy_, MakePipe());
  ASSIGN_OR_RETURN(desk.null_, OpenPath("/dev/null", O_WRONLY));
  // A look must see all that lies there.
  if (fcntl(desk.copy_.write.get(), F_SETPIPE_SZ, fcntl(pipe.write.get(), F_GETPIPE_SZ)) < 0)
    return ErrnoStatus(errno, "size a pipe");
  desk.pipe_ = std::move(pipe);
  return desk;
}

void Desk::Own() const {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  while (fcntl(pipe_.write.get(), F_SETLKW, &lock) < 0 && errno == EINTR) {
  }
}

ssize_t Desk::Fill(int source) const {
  return splice(source, nullptr, pipe_.write.get(), nullptr, kPipeBytes, SPLICE_F_NONBLOCK);
}

std::string_view Desk::Look() {
  const ssize_t all = tee(pipe_.read.get(), copy_.write.get(), kPipeBytes, SPLICE_F_NONBLOCK);
  text_.resize(all < 0 ? 0 : static_cast<size_t>(all));
  for (size_t done = 0; done < text_.size();) {
    const ssize_t n = read(copy_.read.get(), text_.data() + done, text_.size() - done);
    if (n > 0) done += static_cast<size_t>(n);
  }
  return text_;
}

void Desk::Clear() const {
  while (splice(pipe_.read.get(), nullptr, null_.get(), nullptr, kPipeBytes, SPLICE_F_NONBLOCK) > 0) {
  }
}

absl::StatusOr<Fd> LogQueue::MakeMemory() {
  Fd memory(memfd_create("cri-sock-log", MFD_CLOEXEC));
  const uint64_t layout = Memory::kLayout;
  if (!memory.valid() || ftruncate(memory.get(), Memory::kSize) < 0 ||
      pwrite(memory.get(), &layout, sizeof layout, offsetof(Memory, layout)) < 0)
    return ErrnoStatus(errno, "make memory for a log");
  return memory;
}

bool LogQueue::Understands(int memory) {
  uint64_t layout = 0;
  return pread(memory, &layout, sizeof layout, offsetof(Memory, layout)) == sizeof layout &&
         layout == Memory::kLayout;
}

absl::StatusOr<std::unique_ptr<LogQueue>> LogQueue::Open(int memory, std::atomic<size_t>& of_all) {
  constexpr size_t kAddresses = Memory::kSize + kMaxBytes;
  void* at = mmap(nullptr, kAddresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return ErrnoStatus(errno, "find room for a log's memory");
  constexpr int kProtection = PROT_READ | PROT_WRITE, kFlags = MAP_SHARED | MAP_FIXED;
  if (mmap(at, Memory::kSize, kProtection, kFlags, memory, 0) == MAP_FAILED ||
      mmap(static_cast<char*>(at) + Memory::kSize, kMaxBytes, kProtection, kFlags, memory, Memory::kRing) ==
          MAP_FAILED) {
    const int error = errno;
    munmap(at, kAddresses);
    return ErrnoStatus(error, "map a log's memory");
  }
  return std::unique_ptr<LogQueue>(new LogQueue(static_cast<Memory*>(at), of_all));
}

LogQueue::LogQueue(Memory* memory, std::atomic<size_t>& of_all)
    : memory_(memory),
      of_all_(of_all),
      cutters_{LineCutter("stdout"), LineCutter("stderr")},
      in_(memory->input.Get()),
      out_(memory->output.Get()) {
  for (Stream stream : {kStdout, kStderr})
    cutters_[stream].Restore({memory_->Pending(stream, in_.half[stream]), in_.pending[stream]});
  of_all_ += in_.tail - out_.head;
}

LogQueue::~LogQueue() {
  of_all_ -= in_.tail - out_.head;
  munmap(memory_, Memory::kSize + kMaxBytes);
}

void LogQueue::Settle(Desk& desk) {
  if (in_.step == kTaking) Absorb(static_cast<Stream>(in_.stream), desk);
  if (in_.step == kTaken) desk.Clear();
  Note(kNone);
}

bool LogQueue::Take(Stream stream, int source, Desk& desk) {
  Note(kTaking, stream);
  const ssize_t n = desk.Fill(source);
  const bool end = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);  // a pty's master says EIO
  if (n > 0) Absorb(stream, desk);
  Note(kNone);
  if (end) Finish(stream);
  return !end;
}

void LogQueue::Absorb(Stream stream, Desk& desk) {
  std::string text;
  cutters_[stream].Feed(desk.Look(), NowNs(), text);
  Append(stream, std::move(text), kTaken);
  desk.Clear();
}

void LogQueue::Finish(Stream stream) {
  std::string text;
  cutters_[stream].Finish(NowNs(), text);
  Append(stream, std::move(text), kNone, true);
}

void LogQueue::Append(Stream stream, std::string text, Step step, bool at_end) {
  std::lock_guard lock(mutex_);
  const uint64_t missing = in_.dropped + out_.lost - in_.noted, queued = in_.tail - out_.head;
  if (queued + text.size() > kMaxBytes - kNoteBytes || of_all_ + text.size() > kMaxBytesOfAll) {
    in_.dropped += Lines(text);
  } else if (!text.empty() || (at_end && missing > 0)) {
    if (missing > 0) {
      text.insert(0, fmt::format("{} stderr F cri-sock: {} lines were dropped: the log could not be "
                                 "written fast enough\n",
                                 Timestamp(NowNs()), missing));
      in_.noted += missing;
    }
    if (queued == 0) in_.base = in_.tail;  // the same few pages again
    memcpy(InRing(in_.tail), text.data(), text.size());
    in_.tail += text.size();
    of_all_ += text.size();
  }
  const std::string& pending = cutters_[stream].pending();
  if (!pending.empty()) {
    in_.half[stream] ^= 1;
    memcpy(memory_->Pending(stream, in_.half[stream]), pending.data(), pending.size());
  }
  in_.pending[stream] = static_cast<uint32_t>(pending.size());
  in_.step = step;
  memory_->input.Set(in_);
}

void LogQueue::Note(Step step, Stream stream) {
  std::lock_guard lock(mutex_);
  in_.step = step;
  in_.stream = stream;
  memory_->input.Set(in_);
}

bool LogQueue::HasBegun(int file) const {
  std::lock_guard lock(mutex_);
  struct stat st;
  return out_.length > 0 && fstat(file, &st) == 0 && st.st_dev == out_.device && st.st_ino == out_.inode;
}

bool LogQueue::Write(int file) {
  const bool begun = HasBegun(file);
  struct stat st {};
  fstat(file, &st);
  std::string_view text;
  size_t done = 0;
  {
    std::lock_guard lock(mutex_);
    if (out_.head == in_.tail) return false;
    if (out_.length == 0) {
      text = {InRing(out_.head), std::min(in_.tail - out_.head, kWriteBytes)};
      text = text.substr(0, text.rfind('\n') + 1);
    } else {
      text = {InRing(out_.head), out_.length};
    }
    if (begun) {
      // Where somebody made it shorter, nothing of it is there.
      const auto size = static_cast<uint64_t>(st.st_size);
      if (size > out_.offset) done = std::min(size - out_.offset, out_.length);
    } else {
      out_.length = text.size();
      out_.offset = static_cast<uint64_t>(st.st_size);
      out_.device = st.st_dev;
      out_.inode = st.st_ino;
      memory_->output.Set(out_);
    }
  }
  const uint64_t lost = file < 0 ? 0 : Lines(WriteRecords(file, text, done));
  std::lock_guard lock(mutex_);
  out_.lost += lost;
  out_.head += text.size();
  out_.length = 0;
  memory_->output.Set(out_);
  of_all_ -= text.size();
  if (out_.head == in_.tail && in_.tail - in_.base > kKeptBytes)
    madvise(memory_->At(Memory::kRing + kKeptBytes), kMaxBytes - kKeptBytes, MADV_REMOVE);
  return true;
}

}  // namespace sock::runtime::monitor
