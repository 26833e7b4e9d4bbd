// Paths that strangers chose, resolved inside a root and by descriptor (openat2(2), RESOLVE_IN_ROOT); and
// small files.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"

namespace sock {

// Opens `path` as if `root` were "/": symlinks and ".." stay inside. `flags` as open(2); CLOEXEC is added.
// Magic links are refused. NOT_FOUND for ENOENT and ENOTDIR.
absl::StatusOr<Fd> OpenInRoot(int root, std::string_view path, int flags, mode_t mode = 0);

// Opens the directory `path` in `root`, making what is missing with `mode` (owner: the caller), symlinks
// followed inside the root. The descriptor is O_PATH | O_DIRECTORY.
absl::StatusOr<Fd> MakeDirsInRoot(int root, std::string_view path, mode_t mode = 0755);

// Opens `path` in `root` (O_PATH), making an empty regular file and its parents where there is nothing.
absl::StatusOr<Fd> MakeFileInRoot(int root, std::string_view path, mode_t mode = 0644);

// Opens a host path. NOT_FOUND for ENOENT and ENOTDIR. CLOEXEC is added.
absl::StatusOr<Fd> OpenPath(const std::string& path, int flags, mode_t mode = 0);

// mkdir -p on the host.
absl::Status MakeDirs(const std::string& path, mode_t mode = 0755);

// Removes a host tree without following symlinks or crossing into other file systems' mounts. Gone is
// success.
absl::Status RemoveTree(const std::string& path);

// Reads a whole file, at most `limit` bytes (RESOURCE_EXHAUSTED past it). NOT_FOUND where there is none.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit = 64 << 20);
absl::StatusOr<std::string> ReadFileAt(int dir, const std::string& name, size_t limit = 64 << 20);

// Writes `text` in one write(2) to an existing file: for cgroup, sysctl and /proc files.
absl::Status WriteExisting(const std::string& path, std::string_view text);
absl::Status WriteExistingAt(int dir, const std::string& name, std::string_view text);

// Writes all of `data`, going on after short writes and EINTR.
absl::Status WriteAll(int fd, std::string_view data);

}  // namespace sock
