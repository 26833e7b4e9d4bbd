#include "runtime/base/path.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "absl/strings/str_split.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock {
namespace {

std::vector<std::string> Components(std::string_view path) {
  return absl::StrSplit(absl::string_view(path.data(), path.size()), '/', absl::SkipEmpty());
}

absl::Status OpenError(int err, std::string_view path) {
  absl::Status status = ErrnoStatus(err, Cat("open `", path, "`"));
  if (err == ENOENT || err == ENOTDIR) return WithCode(status, absl::StatusCode::kNotFound);
  return status;
}

int OpenAt2(int root, const std::string& path, int flags, mode_t mode) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = (flags & O_CREAT) ? mode : 0;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  for (;;) {
    int fd =
        static_cast<int>(syscall(SYS_openat2, root, path.empty() ? "." : path.c_str(), &how, sizeof how));
    // EAGAIN: something was renamed during the walk and the kernel can't vouch for ".."; openat2(2) says try
    // again.
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return fd;
  }
}

absl::Status RemoveAt(int dir, const std::string& name, dev_t device) {
  if (unlinkat(dir, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
  if (errno != EISDIR && errno != EPERM) return ErrnoStatus(errno, Cat("remove `", name, "`"));
  Fd fd(openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, Cat("open `", name, "`"));
  struct stat st;
  if (fstat(fd.get(), &st) < 0) return ErrnoStatus(errno, Cat("stat `", name, "`"));
  if (st.st_dev != device)
    return absl::InternalError(Cat("remove `", name, "`: a file system is mounted on it"));
  ASSIGN_OR_RETURN(Fd copy, fd.Dup());
  std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(copy.get()), closedir);
  if (!stream) return ErrnoStatus(errno, Cat("read directory `", name, "`"));
  copy.Release();
  absl::Status first;
  while (dirent* entry = readdir(stream.get())) {
    std::string_view child = entry->d_name;
    if (child == "." || child == "..") continue;
    first.Update(RemoveAt(fd.get(), std::string(child), device));
  }
  RETURN_IF_ERROR(first);
  if (unlinkat(dir, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return absl::OkStatus();
  return ErrnoStatus(errno, Cat("remove directory `", name, "`"));
}

absl::StatusOr<std::string> ReadAll(int fd, std::string_view name, size_t limit) {
  std::string text;
  char buffer[16384];
  for (;;) {
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, Cat("read `", name, "`"));
    if (n == 0) return text;
    if (text.size() + static_cast<size_t>(n) > limit)
      return absl::ResourceExhaustedError(Cat("read `", name, "`: more than ", limit, " bytes"));
    text.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace

absl::StatusOr<Fd> OpenInRoot(int root, std::string_view path, int flags, mode_t mode) {
  Fd fd(OpenAt2(root, std::string(path), flags, mode));
  if (!fd.valid()) return OpenError(errno, path);
  return fd;
}

absl::StatusOr<Fd> MakeDirsInRoot(int root, std::string_view path, mode_t mode) {
  Fd whole(OpenAt2(root, std::string(path), O_PATH | O_DIRECTORY, 0));
  if (whole.valid()) return whole;
  if (errno != ENOENT) return OpenError(errno, path);
  std::string sofar;
  for (const std::string& part : Components(path)) {
    // Each prefix is resolved from the root again, so that "..", and symlinks, mean what they mean to the
    // kernel.
    std::string parent = sofar.empty() ? "." : sofar;
    sofar += sofar.empty() ? part : "/" + part;
    Fd here(OpenAt2(root, sofar, O_PATH | O_DIRECTORY, 0));
    if (here.valid()) continue;
    if (errno != ENOENT) return OpenError(errno, path);
    ASSIGN_OR_RETURN(Fd above, OpenInRoot(root, parent, O_PATH | O_DIRECTORY));
    if (mkdirat(above.get(), part.c_str(), mode) < 0 && errno != EEXIST)
      return ErrnoStatus(errno, Cat("make directory `", sofar, "`"));
  }
  return OpenInRoot(root, path, O_PATH | O_DIRECTORY);
}

absl::StatusOr<Fd> MakeFileInRoot(int root, std::string_view path, mode_t mode) {
  Fd there(OpenAt2(root, std::string(path), O_PATH, 0));
  if (there.valid()) return there;
  if (errno != ENOENT) return OpenError(errno, path);
  size_t slash = path.find_last_of('/');
  std::string_view parent = slash == std::string_view::npos ? "." : path.substr(0, slash);
  std::string name(slash == std::string_view::npos ? path : path.substr(slash + 1));
  ASSIGN_OR_RETURN(Fd dir, MakeDirsInRoot(root, parent));
  Fd made(openat(dir.get(), name.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, mode));
  if (!made.valid() && errno != EEXIST) return ErrnoStatus(errno, Cat("create `", path, "`"));
  return OpenInRoot(root, path, O_PATH);
}

absl::StatusOr<Fd> OpenPath(const std::string& path, int flags, mode_t mode) {
  Fd fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return OpenError(errno, path);
  return fd;
}

absl::Status MakeDirs(const std::string& path, mode_t mode) {
  std::string sofar = path.starts_with('/') ? "/" : "";
  for (const std::string& part : Components(path)) {
    sofar += part;
    if (mkdir(sofar.c_str(), mode) < 0 && errno != EEXIST)
      return ErrnoStatus(errno, Cat("make directory `", sofar, "`"));
    sofar += '/';
  }
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  struct stat st;
  if (lstat(path.c_str(), &st) < 0)
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, Cat("stat `", path, "`"));
  return RemoveAt(AT_FDCWD, path, st.st_dev);
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit) {
  return ReadFileAt(AT_FDCWD, path, limit);
}

absl::StatusOr<std::string> ReadFileAt(int dir, const std::string& name, size_t limit) {
  Fd fd(openat(dir, name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return OpenError(errno, name);
  return ReadAll(fd.get(), name, limit);
}

absl::Status WriteExisting(const std::string& path, std::string_view text) {
  return WriteExistingAt(AT_FDCWD, path, text);
}

absl::Status WriteExistingAt(int dir, const std::string& name, std::string_view text) {
  Fd fd(openat(dir, name.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return OpenError(errno, name);
  for (;;) {
    ssize_t n = write(fd.get(), text.data(), text.size());
    if (n == static_cast<ssize_t>(text.size())) return absl::OkStatus();
    if (n >= 0) return absl::InternalError(Cat("write `", name, "`: short write"));
    if (errno != EINTR) return ErrnoStatus(errno, Cat("write `", text, "` to `", name, "`"));
  }
}

absl::Status WriteAll(int fd, std::string_view data) {
  while (!data.empty()) {
    ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write");
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace sock
