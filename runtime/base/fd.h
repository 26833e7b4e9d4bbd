// A file descriptor that is owned by one value. Open every one with CLOEXEC.
#pragma once

#include <utility>

#include "absl/status/statusor.h"

namespace sock {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.Release()) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) Reset(other.Release());
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives the descriptor up without closing it.
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1);

  // A second descriptor of the same open file, CLOEXEC (fcntl(2) F_DUPFD_CLOEXEC).
  absl::StatusOr<Fd> Dup() const;

 private:
  int fd_ = -1;
};

struct Pipe {
  Fd read, write;
};

// pipe2(2) with O_CLOEXEC and `flags`.
absl::StatusOr<Pipe> MakePipe(int flags = 0);

}  // namespace sock
