#include "oci/unpack.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "oci/manifest.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

constexpr size_t kMaxAnswer = 16 << 20;

absl::StatusOr<std::string> Program() {
  std::error_code error;
  std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError(Cat("read `/proc/self/exe`: ", error.message()));
  return (self.parent_path() / "cri-sock-unpack").string();
}

// Starts the process with `layer` as stdin, `answer` as stdout and `root` as working directory.
absl::StatusOr<pid_t> Spawn(int layer, int answer, int root, const UnpackOptions& options) {
  ASSIGN_OR_RETURN(std::string program, Program());
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  absl::Cleanup free = [&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  };
  posix_spawn_file_actions_addfchdir_np(&actions, root);
  posix_spawn_file_actions_adddup2(&actions, layer, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, answer, STDOUT_FILENO);
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::string bytes = Cat(options.max_bytes), diff_id = options.diff_id;
  char* arguments[] = {program.data(), bytes.data(), diff_id.data(), nullptr};
  pid_t pid = 0;
  const int err = posix_spawn(&pid, program.c_str(), &actions, &attributes, arguments, environ);
  if (err != 0) return ErrnoStatus(err, Cat("start `", program, "`"));
  return pid;
}

// What the process says, to the end. Kills it when cancelled or when it says too much.
absl::StatusOr<std::string> ReadAnswer(int fd, pid_t pid, const UnpackOptions& options) {
  std::string answer;
  auto give_up = [&](absl::Status why) {
    kill(pid, SIGKILL);  // our own child, not yet waited for: the number is still its
    return why;
  };
  for (;;) {
    pollfd wait{fd, POLLIN, 0};
    const int ready = poll(&wait, 1, 200);
    if (options.cancelled && options.cancelled()) return give_up(absl::CancelledError("cancelled"));
    if (ready <= 0) continue;
    char buffer[16384];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n == 0) return answer;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return give_up(ErrnoStatus(errno, "read the unpacking process's answer"));
    answer.append(buffer, static_cast<size_t>(n));
    if (answer.size() > kMaxAnswer)
      return give_up(absl::InternalError("the unpacking process says too much"));
  }
}

// The answer is NUL-terminated words: "ok", the digest and the implied directories; or "error", an
// absl::StatusCode and the message. It is judged like anything that has touched a stranger's bytes.
absl::StatusOr<Unpacked> ParseAnswer(const std::string& answer, int status) {
  std::vector<std::string> words;
  for (size_t at = 0; at < answer.size();) {
    const size_t end = answer.find('\0', at);
    if (end == std::string::npos) break;
    words.push_back(answer.substr(at, end - at));
    at = end + 1;
  }
  int code = 0;
  if (words.size() == 3 && words[0] == "error" && absl::SimpleAtoi(words[1], &code) && code > 0 &&
      code <= 16) {
    return absl::Status(static_cast<absl::StatusCode>(code), words[2]);
  }
  if (WIFSIGNALED(status)) {
    return absl::InternalError(Cat("the unpacking process was ended by signal ", WTERMSIG(status)));
  }
  if (WEXITSTATUS(status) != 0 || words.size() < 2 || words[0] != "ok" ||
      !CheckDigest(words[1], "digest").ok()) {
    return absl::InternalError(
        Cat("the unpacking process ended with ", WEXITSTATUS(status), " and without an answer"));
  }
  return Unpacked{words[1], {words.begin() + 2, words.end()}};
}

absl::StatusOr<Unpacked> UnpackInChild(int fd, const std::string& directory, const UnpackOptions& options) {
  ASSIGN_OR_RETURN(Fd root, OpenPath(directory, O_RDONLY | O_DIRECTORY));
  if (fchmod(root.get(), 0755) < 0) return ErrnoStatus(errno, Cat("change mode of `", directory, "`"));
  ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  ASSIGN_OR_RETURN(const pid_t pid, Spawn(fd, pipe.write.get(), root.get(), options));
  pipe.write.Reset();
  absl::StatusOr<std::string> answer = ReadAnswer(pipe.read.get(), pid, options);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "wait for the unpacking process");
  }
  RETURN_IF_ERROR(answer.status());
  return ParseAnswer(*answer, status);
}

enum class Found { kDirectory, kNothing, kEnd };  // kEnd: what lies lower is hidden

// Looks for `path` in one layer, by directories alone.
Found FindDirectory(const std::string& layer, const std::string& path, Fd& out) {
  Fd dir(open(layer.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  bool opaque = false;
  for (size_t start = 0; dir.valid() && start < path.size();) {
    const size_t slash = std::min(path.find('/', start), path.size());
    char value = 0;
    opaque = opaque || (fgetxattr(dir.get(), "trusted.overlay.opaque", &value, 1) == 1 && value == 'y');
    Fd next(openat(dir.get(), path.substr(start, slash - start).c_str(),
                   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid()) return errno == ENOENT && !opaque ? Found::kNothing : Found::kEnd;
    dir = std::move(next);
    start = slash + 1;
  }
  out = std::move(dir);
  return !out.valid() || opaque ? Found::kEnd : Found::kDirectory;
}

}  // namespace

absl::StatusOr<Unpacked> UnpackLayer(int fd, const std::string& directory, const UnpackOptions& options) {
  if (mkdir(directory.c_str(), 0755) < 0) return ErrnoStatus(errno, Cat("make directory `", directory, "`"));
  auto result = UnpackInChild(fd, directory, options);
  if (result.ok()) return result;
  RemoveTree(directory).IgnoreError();  // the first error is the one that says something
  return Annotate(result.status(), "unpack layer");
}

absl::Status InheritDirectories(const std::string& directory, const std::vector<std::string>& implied,
                                const std::vector<std::string>& lower) {
  for (const std::string& path : implied) {
    Fd own, covered;
    if (FindDirectory(directory, path, own) != Found::kDirectory) continue;  // replaced, or hides all below
    for (const std::string& layer : lower) {
      const Found found = FindDirectory(layer, path, covered);
      if (found == Found::kEnd && !covered.valid()) break;
      if (found == Found::kNothing) continue;
      struct stat st;
      if (fstat(covered.get(), &st) < 0) return ErrnoStatus(errno, Cat("stat `", path, "` of a lower layer"));
      const timespec times[2] = {st.st_atim, st.st_mtim};
      if (fchown(own.get(), st.st_uid, st.st_gid) < 0 || fchmod(own.get(), st.st_mode & 07777) < 0 ||
          futimens(own.get(), times) < 0) {
        return ErrnoStatus(errno, Cat("set owner, mode and times of `", path, "`"));
      }
      break;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Usage> TreeUsage(const std::string& directory) {
  Usage usage;
  std::set<std::pair<dev_t, ino_t>> seen;
  auto count = [&](const char* path) {
    struct stat st;
    if (lstat(path, &st) < 0) return false;
    if (st.st_nlink > 1 && !S_ISDIR(st.st_mode) && !seen.emplace(st.st_dev, st.st_ino).second) return true;
    usage.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    ++usage.inodes;
    return true;
  };
  if (!count(directory.c_str())) {
    const int err = errno;
    const absl::Status status = ErrnoStatus(err, Cat("stat `", directory, "`"));
    return err == ENOENT ? WithCode(status, absl::StatusCode::kNotFound) : status;
  }
  std::error_code error;
  std::filesystem::recursive_directory_iterator it(
      directory, std::filesystem::directory_options::skip_permission_denied, error);
  while (!error && it != std::filesystem::recursive_directory_iterator()) {
    count(it->path().c_str());
    it.increment(error);
    if (error == std::errc::no_such_file_or_directory) error.clear();
  }
  if (error) return absl::InternalError(Cat("walk `", directory, "`: ", error.message()));
  return usage;
}

}  // namespace sock::oci
