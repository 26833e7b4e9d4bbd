#include "runtime/base/fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/base/status.h"

namespace sock {

void Fd::Reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

absl::StatusOr<Fd> Fd::Dup() const {
  int fd = fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  if (fd < 0) return ErrnoStatus(errno, "duplicate a descriptor");
  return Fd(fd);
}

absl::StatusOr<Pipe> MakePipe(int flags) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | flags) < 0) return ErrnoStatus(errno, "make a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

}  // namespace sock
