// What the log writer has in hand: of a container's output, all that was taken from its pipes and does not
// stand in its log yet. It lies in memory and in a pipe that outlive the writer, so that one that is killed
// at any moment is followed by one that goes on at that very byte: no line is lost, none written twice.
//
// Input: splice(2) moves bytes from the container's pipe to a pipe of ours, the desk, of which only we are
// reader and writer. They are looked at there by tee(2), which takes nothing away, and cut into records; one
// store in the memory makes these records a part of the queue; then the desk is cleared. A writer that finds
// something on the desk knows by the memory whether it is in the queue already.
// Output: before write(2) the memory says which bytes go to which file, and how long that is. Nobody else
// writes to it, so its length tells how many of them are there.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"

namespace sock::runtime::monitor {

// A container's output as the CRI's log format has it (kubernetes, pkg/kubelet/cri/remote/logs.go reads it):
// "TIME STREAM TAG TEXT\n", where TIME is RFC 3339 with nanoseconds, STREAM stdout or stderr, and TAG F for a
// line's end, P for a part of one.
class LineCutter {
 public:
  static constexpr size_t kMaxLine = 16 << 10;
  explicit LineCutter(std::string_view stream) : stream_(stream) {}
  // Takes output in and appends whole records, of at most kMaxLine bytes of text each, to `log`.
  void Feed(std::string_view data, int64_t now_ns, std::string& log);
  // At end of file: what has no newline.
  void Finish(int64_t now_ns, std::string& log);
  // What has no newline yet, at most kMaxLine bytes.
  const std::string& pending() const { return pending_; }
  void Restore(std::string_view pending) { pending_ = pending; }

 private:
  void Record(std::string_view text, bool whole, int64_t now_ns, std::string& log);
  std::string stream_, pending_;
};

// The pipe between those of containers and the queues. Empty between two steps of a writer.
class Desk {
 public:
  static absl::StatusOr<Pipe> MakePipe();
  // `pipe`: of MakePipe, shared with the writers before and to come.
  static absl::StatusOr<Desk> Open(Pipe pipe);
  // Waits until no other process owns it. This one does until it ends. May be called beside everything else.
  void Own() const;
  // Moves what `source`, a pipe or a pty's master, has to give, without waiting for more. As splice(2): 0 at
  // end of file.
  ssize_t Fill(int source) const;
  // What lies there, and stays. Valid until the next call.
  std::string_view Look();
  void Clear() const;

 private:
  Pipe pipe_, copy_;
  Fd null_;
  std::string text_;
};

class LogQueue {
 public:
  static constexpr size_t kMaxBytes = 4 << 20;  // so that one log can't starve the others
  static constexpr size_t kMaxBytesOfAll = 16 << 20;
  enum Stream { kStdout, kStderr };

  // A memfd for a new log. It takes up no more than is used.
  static absl::StatusOr<Fd> MakeMemory();
  // Whether `memory` was laid out by a program that does so as this one; -1 was not.
  static bool Understands(int memory);
  // `memory`: of MakeMemory, and Understands it; not needed afterwards. Only the
  // desk's owner may have it open. `of_all`: bytes in all queues, which this one adds its own to.
  static absl::StatusOr<std::unique_ptr<LogQueue>> Open(int memory, std::atomic<size_t>& of_all);
  ~LogQueue();
  LogQueue(const LogQueue&) = delete;
  LogQueue& operator=(const LogQueue&) = delete;

  // One thread takes. What is too much is dropped, and counted in a line of the log.
  // Finishes the step that a killed writer had begun; to be called before any queue takes.
  void Settle(Desk& desk);
  // Takes what `source` has; false at its end.
  bool Take(Stream stream, int source, Desk& desk);
  // What has no newline becomes a record.
  void Finish(Stream stream);

  // Another may write.
  // Whether a part of the queue may stand in `file` already, and the rest belongs there.
  bool HasBegun(int file) const;
  // Writes some whole records to `file`, -1 for nowhere; those that it does not take are lost and counted.
  // False: there was nothing to write.
  bool Write(int file);

 private:
  enum Step : uint32_t { kNone, kTaking, kTaken };
  struct Input {
    uint64_t tail;                 // bytes that were ever queued
    uint64_t base;                 // of these, where the ring's first byte was last
    uint64_t dropped, noted;       // lines; noted: of all that are missing in the log
    uint32_t pending[2], half[2];  // bytes of each stream's unfinished line, and where they lie
    uint32_t step, stream;         // what lies on the desk
  };
  struct Output {
    uint64_t head;    // bytes that have left the queue
    uint64_t length;  // of what is being written, at `offset` of the file
    uint64_t offset, device, inode;
    uint64_t lost;  // lines
  };
  // One store decides which copy holds, so that each change is made or not.
  template <typename T>
  struct Committed {
    const T& Get() const { return copies[current.load(std::memory_order_acquire)]; }
    void Set(const T& value) {
      const uint32_t other = 1 - current.load(std::memory_order_relaxed);
      copies[other] = value;
      current.store(other, std::memory_order_release);
    }
    T copies[2];
    std::atomic<uint32_t> current;
  };
  struct Memory {
    static constexpr uint64_t kLayout = 1;  // changes with anything here
    static constexpr size_t kPage = 4096, kRing = kPage + 4 * LineCutter::kMaxLine, kSize = kRing + kMaxBytes;
    uint64_t layout;
    Committed<Input> input;
    Committed<Output> output;
    // From kPage on two halves for either stream's unfinished line, of which one holds. From kRing on the
    // queue, mapped twice, so that every part of it is in one piece.
    char* At(size_t offset) { return reinterpret_cast<char*>(this) + offset; }
    char* Pending(Stream stream, uint32_t half) {
      return At(kPage + (2 * stream + half) * LineCutter::kMaxLine);
    }
  };
  static_assert(sizeof(Memory) <= Memory::kPage);

  LogQueue(Memory* memory, std::atomic<size_t>& of_all);
  char* InRing(uint64_t position) const {
    return memory_->At(Memory::kRing + (position - in_.base) % kMaxBytes);
  }
  void Absorb(Stream stream, Desk& desk);
  void Append(Stream stream, std::string text, Step step, bool at_end = false);
  void Note(Step step, Stream stream = kStdout);

  Memory* const memory_;
  std::atomic<size_t>& of_all_;
  LineCutter cutters_[2];
  mutable std::mutex mutex_;  // of what follows; each is changed by its own thread only
  Input in_;
  Output out_;
};

}  // namespace sock::runtime::monitor
