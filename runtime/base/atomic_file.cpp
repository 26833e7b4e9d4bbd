#include "runtime/base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock {

absl::Status WriteFileAtomic(const std::string& path, std::string_view data, Durability durability,
                             mode_t mode) {
  static std::atomic<unsigned> serial{0};
  std::string aside = Cat(path, ".tmp-", getpid(), "-", serial++);
  ASSIGN_OR_RETURN(Fd fd, OpenPath(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode));
  absl::Cleanup undo = [&] { unlink(aside.c_str()); };
  RETURN_IF_ERROR_AS(WriteAll(fd.get(), data), Cat("write `", path, "`"));
  if (durability == Durability::kReboot && fsync(fd.get()) < 0)
    return ErrnoStatus(errno, Cat("fsync `", path, "`"));
  if (rename(aside.c_str(), path.c_str()) < 0) return ErrnoStatus(errno, Cat("rename to `", path, "`"));
  std::move(undo).Cancel();
  if (durability == Durability::kReboot) {
    std::string dir = path.substr(0, path.find_last_of('/') + 1);
    ASSIGN_OR_RETURN(Fd d, OpenPath(dir.empty() ? "." : dir, O_RDONLY | O_DIRECTORY));
    if (fsync(d.get()) < 0) return ErrnoStatus(errno, Cat("fsync `", dir, "`"));
  }
  return absl::OkStatus();
}

}  // namespace sock
