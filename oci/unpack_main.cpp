// cri-sock-unpack: unpacks one layer, in a process that can do nothing else. Started by UnpackLayer
// (unpack.cpp): stdin is the layer, stdout takes the answer, the working directory is the one to fill.
//   cri-sock-unpack MAX-BYTES DIFF-ID
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "absl/strings/numbers.h"
#include "oci/unpack_tar.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

constexpr rlim_t kMemory = 1 << 30;  // the largest zstd window is 128 MiB

// Makes the working directory the root, in a mount namespace that holds nothing else.
absl::Status ChangeRoot() {
  Fd tree(open_tree(AT_FDCWD, ".", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!tree.valid()) return ErrnoStatus(errno, "clone the directory's mount");
  // Devices are made there, not used.
  mount_attr attributes{.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
                        .attr_clr = 0,
                        .propagation = MS_PRIVATE,
                        .userns_fd = 0};
  if (mount_setattr(tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0) {
    return ErrnoStatus(errno, "set the mount's attributes");
  }
  if (unshare(CLONE_NEWNS) < 0) return ErrnoStatus(errno, "unshare the mount namespace");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    return ErrnoStatus(errno, "make / private");
  if (move_mount(tree.get(), "", AT_FDCWD, ".", MOVE_MOUNT_F_EMPTY_PATH) < 0) {
    return ErrnoStatus(errno, "attach the mount");
  }
  if (fchdir(tree.get()) < 0) return ErrnoStatus(errno, "change directory");
  if (syscall(SYS_pivot_root, ".", ".") == 0) {
    if (umount2(".", MNT_DETACH) < 0) return ErrnoStatus(errno, "detach the old root");
  } else if (mount(".", "/", nullptr, MS_MOVE, nullptr) < 0 || chroot(".") < 0) {
    // The kernel's first root (rootfs) can't be pivoted away; it lies below now.
    return ErrnoStatus(errno, "change the root");
  }
  if (chdir("/") < 0) return ErrnoStatus(errno, "change directory to /");
  return absl::OkStatus();
}

absl::Status DropCapabilities() {
  // SYS_ADMIN for trusted.overlay.opaque alone: the system calls that it opens otherwise are closed below.
  static constexpr cap_value_t kKept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER,   CAP_FSETID,
                                          CAP_MKNOD, CAP_SETFCAP,      CAP_SYS_ADMIN};
  std::unique_ptr<_cap_struct, int (*)(void*)> set(cap_init(), cap_free);
  for (cap_flag_t flag : {CAP_PERMITTED, CAP_EFFECTIVE}) {
    if (!set || cap_set_flag(set.get(), flag, std::size(kKept), kKept, CAP_SET) < 0) {
      return ErrnoStatus(errno, "choose capabilities");
    }
  }
  if (cap_set_proc(set.get()) < 0) return ErrnoStatus(errno, "drop capabilities");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return ErrnoStatus(errno, "set no_new_privs");
  return absl::OkStatus();
}

absl::Status Limit() {
  const std::pair<__rlimit_resource, rlim_t> limits[] = {
#ifndef CRI_SOCK_SANITIZED
      {RLIMIT_AS, kMemory},  // a sanitizer's shadow alone is larger
#endif
      {RLIMIT_CORE, 0},
      {RLIMIT_NOFILE, 64},
  };
  for (const auto& [resource, limit] : limits) {
    const rlimit both{limit, limit};
    if (setrlimit(resource, &both) < 0) return ErrnoStatus(errno, "set resource limits");
  }
  return absl::OkStatus();
}

// Only what reads, decompresses and writes files. No process, socket, mount, signal to others, or program.
absl::Status AllowSystemCalls() {
  static constexpr const char* kAllowed[] = {
      "read",
      "pread64",
      "readv",
      "write",
      "pwrite64",
      "writev",
      "lseek",
      "_llseek",
      "close",
      "openat",
      "openat2",
      "open",
      "fstat",
      "fstat64",
      "newfstatat",
      "fstatat64",
      "statx",
      "lstat",
      "stat",
      "getdents64",
      "fchdir",
      "mkdirat",
      "unlinkat",
      "symlinkat",
      "linkat",
      "mknodat",
      "fchown",
      "fchownat",
      "fchmod",
      "fchmodat",
      "fchmodat2",
      "fsetxattr",
      "lsetxattr",
      "utimensat",
      "utimensat_time64",
      "ftruncate",
      "ftruncate64",
      "fcntl",
      "fcntl64",
      "mmap",
      "mmap2",
      "munmap",
      "mremap",
      "mprotect",
      "madvise",
      "brk",
      "futex",
      "rt_sigprocmask",
      "rt_sigaction",
      "rt_sigreturn",
      "sigaltstack",
      "getpid",
      "gettid",
      "tgkill",
      "getrandom",
      "clock_gettime",
      "clock_gettime64",
      "gettimeofday",
      "exit",
      "exit_group",
      "restart_syscall",
#ifdef CRI_SOCK_SANITIZED
      "pipe",
      "pipe2",
      "sched_yield",  // how the sanitizers' runtime tries whether memory can be read
#endif
  };
  std::unique_ptr<void, void (*)(void*)> filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)), seccomp_release);
  if (!filter) return absl::InternalError("make a seccomp filter");
  for (const char* name : kAllowed) {
    const int number = seccomp_syscall_resolve_name(name);
    if (number < 0) continue;  // not of this architecture, or newer than libseccomp
    if (const int rc = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, number, 0); rc < 0) {
      return ErrnoStatus(-rc, Cat("allow `", name, "`"));
    }
  }
  if (const int rc = seccomp_load(filter.get()); rc < 0) return ErrnoStatus(-rc, "load the seccomp filter");
  return absl::OkStatus();
}

absl::StatusOr<Unpacked> Run(int count, char** arguments) {
  UnpackOptions options;
  if (count != 3 || !absl::SimpleAtoi(arguments[1], &options.max_bytes)) {
    return absl::InvalidArgumentError("usage: cri-sock-unpack MAX-BYTES DIFF-ID, by the image store only");
  }
  options.diff_id = arguments[2];
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
    return ErrnoStatus(errno, "set the parent's death signal");
  umask(0);
  RETURN_IF_ERROR_AS(ChangeRoot(), "confine the unpacking process");
  RETURN_IF_ERROR_AS(Limit(), "confine the unpacking process");
  RETURN_IF_ERROR_AS(DropCapabilities(), "confine the unpacking process");
  RETURN_IF_ERROR_AS(AllowSystemCalls(), "confine the unpacking process");
  ASSIGN_OR_RETURN(Fd root, OpenPath("/", O_RDONLY | O_DIRECTORY));
  return UnpackTar(STDIN_FILENO, root.get(), options);
}

}  // namespace
}  // namespace sock::oci

int main(int count, char** arguments) {
  absl::StatusOr<sock::oci::Unpacked> result = sock::oci::Run(count, arguments);
  std::string answer;
  auto say = [&](std::string_view word) { answer.append(word).push_back('\0'); };
  if (result.ok()) {
    say("ok");
    say(result->diff_id);
    for (const std::string& path : result->implied) say(path);
  } else {
    say("error");
    say(sock::Cat(result.status().raw_code()));
    std::string message(result.status().message().data(), result.status().message().size());
    say(message.substr(0, message.find('\0')));
  }
  // No destructor has anything to do that the end of the process does not.
  _exit(sock::WriteAll(STDOUT_FILENO, answer).ok() ? 0 : 1);
}
