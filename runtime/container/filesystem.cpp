#include "runtime/container/filesystem.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

absl::Status Attach(int mount, int target, std::string_view what) {
  if (move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
    return ErrnoStatus(errno, Cat("mount on `", what, "`"));
  return absl::OkStatus();
}

absl::Status SetAttributes(int mount, uint64_t set, unsigned flags, std::string_view what) {
  struct mount_attr attr {};
  attr.attr_set = set;
  if (mount_setattr(mount, "", AT_EMPTY_PATH | flags, &attr, sizeof attr) < 0)
    return ErrnoStatus(errno, Cat("change mount `", what, "`"));
  return absl::OkStatus();
}

// A detached copy of the mount at `path` below `dir` (open_tree(2)).
absl::StatusOr<Fd> Clone(int dir, const char* path, unsigned flags) {
  Fd tree(open_tree(dir, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags));
  if (!tree.valid()) return ErrnoStatus(errno, Cat("clone mount `", path, "`"));
  return tree;
}

// The last line of the kernel's own account of why a mount failed (fsopen(2): read from the context).
std::string MountLog(int context) {
  char line[256];
  std::string last;
  for (ssize_t n; (n = read(context, line, sizeof line)) > 0;)
    if (line[0] == 'e') last.assign(line, static_cast<size_t>(n));
  while (!last.empty() && last.back() == '\n') last.pop_back();
  return last.empty() ? last : " (" + last + ")";
}

absl::StatusOr<Fd> NewMount(const std::string& type, const std::vector<std::string>& options,
                            uint64_t attributes) {
  Fd context(fsopen(type.c_str(), FSOPEN_CLOEXEC));
  if (!context.valid()) return ErrnoStatus(errno, Cat("open file system `", type, "`"));
  auto failed = [&](std::string_view what) {
    int err = errno;
    return ErrnoStatus(err, Cat(what, " file system `", type, "`", MountLog(context.get())));
  };
  if (fsconfig(context.get(), FSCONFIG_SET_STRING, "source", type.c_str(), 0) < 0) return failed("configure");
  for (const std::string& option : options) {
    size_t equals = option.find('=');
    std::string key = option.substr(0, equals);
    int done = equals == std::string::npos
                   ? fsconfig(context.get(), FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0)
                   : fsconfig(context.get(), FSCONFIG_SET_STRING, key.c_str(), &option[equals + 1], 0);
    if (done < 0) return failed(Cat("set `", option, "` on"));
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) return failed("create");
  Fd made(fsmount(context.get(), FSMOUNT_CLOEXEC, static_cast<unsigned>(attributes)));
  if (!made.valid()) return failed("mount");
  return made;
}

std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    size_t comma = text.find(',');
    if (comma != 0) words.emplace_back(text.substr(0, comma));
    text = comma == std::string_view::npos ? "" : text.substr(comma + 1);
  }
  return words;
}

absl::Status MountCgroups(int root, const PlanMount& mount) {
  ASSIGN_OR_RETURN(Fd target, MakeDirsInRoot(root, mount.target()));
  bool unified_only = mount.cgroups_size() == 1 && mount.cgroups(0).directory().empty();
  uint64_t later = mount.attributes() & MOUNT_ATTR_RDONLY;
  Fd tmpfs;
  if (!unified_only) {
    ASSIGN_OR_RETURN(tmpfs, NewMount("tmpfs", {"mode=755"}, mount.attributes() & ~later));
    RETURN_IF_ERROR(Attach(tmpfs.get(), target.get(), mount.target()));
  }
  for (const PlanMount::Cgroup& cgroup : mount.cgroups()) {
    std::vector<std::string> options;
    if (!cgroup.unified()) options = Words(cgroup.options());
    ASSIGN_OR_RETURN_AS(Fd made,
                        NewMount(cgroup.unified() ? "cgroup2" : "cgroup", options, mount.attributes()),
                        cgroup.directory());
    if (unified_only) return Attach(made.get(), target.get(), mount.target());
    ASSIGN_OR_RETURN(Fd place, MakeDirsInRoot(tmpfs.get(), cgroup.directory()));
    RETURN_IF_ERROR(Attach(made.get(), place.get(), cgroup.directory()));
    if (cgroup.directory() == cgroup.options() && options.size() > 1)
      for (const std::string& name : options)
        if (symlinkat(cgroup.directory().c_str(), tmpfs.get(), name.c_str()) < 0 && errno != EEXIST)
          return ErrnoStatus(errno, Cat("link `", name, "`"));
  }
  return tmpfs.valid() ? SetAttributes(tmpfs.get(), later, 0, mount.target()) : absl::OkStatus();
}

// What the kernel tells the container in its /proc must not be forged by way of a link. A procfs that a
// volume brought along is another one. Paths that name /proc were checked by who made the plan.
absl::Status RefuseOwnProc(int root, int target) {
  ASSIGN_OR_RETURN(Fd proc, OpenInRoot(root, "/proc", O_PATH | O_DIRECTORY));
  struct stat own, st;
  if (fstat(proc.get(), &own) < 0 || fstat(target, &st) < 0) return ErrnoStatus(errno, "stat `/proc`");
  if (own.st_dev != st.st_dev) return absl::OkStatus();
  return ErrnoStatus(EINVAL, "the path leads to /proc");
}

absl::Status MakeMount(int root, const PlanMount& mount, const std::vector<Fd>& fds) {
  if (mount.type() == "cgroup") return MountCgroups(root, mount);
  Fd made;
  int tree = -1;
  if (mount.has_fd()) {
    tree = fds[static_cast<size_t>(mount.fd())].get();
  } else {
    std::vector<std::string> options(mount.options().begin(), mount.options().end());
    ASSIGN_OR_RETURN(made, NewMount(mount.type(), options, mount.attributes()));
    tree = made.get();
  }
  ASSIGN_OR_RETURN(Fd target, mount.directory() ? MakeDirsInRoot(root, mount.target())
                                                : MakeFileInRoot(root, mount.target()));
  struct statfs fs;
  if (mount.has_fd() && !mount.target().starts_with("/proc") && fstatfs(target.get(), &fs) == 0 &&
      fs.f_type == PROC_SUPER_MAGIC)
    RETURN_IF_ERROR(RefuseOwnProc(root, target.get()));
  return Attach(tree, target.get(), mount.target());
}

absl::Status MakeDevice(int root, const PlanDevice& device) {
  size_t slash = device.path().rfind('/');
  ASSIGN_OR_RETURN(Fd dir, MakeDirsInRoot(root, device.path().substr(0, slash)));
  std::string name = device.path().substr(slash + 1);
  if (mknodat(dir.get(), name.c_str(), device.mode(),
              makedev(device.major_number(), device.minor_number())) == 0) {
    if ((device.uid() || device.gid()) &&
        fchownat(dir.get(), name.c_str(), device.uid(), device.gid(), AT_SYMLINK_NOFOLLOW) < 0)
      return ErrnoStatus(errno, Cat("change owner of `", device.path(), "`"));
    return absl::OkStatus();
  }
  if (errno == EEXIST) return absl::OkStatus();
  if (errno != EPERM || device.host_path().empty())
    return ErrnoStatus(errno, Cat("make device `", device.path(), "`"));
  ASSIGN_OR_RETURN(Fd tree, Clone(AT_FDCWD, device.host_path().c_str(), 0));
  ASSIGN_OR_RETURN(Fd target, MakeFileInRoot(root, device.path()));
  return Attach(tree.get(), target.get(), device.path());
}

absl::Status LinkDev(int root) {
  ASSIGN_OR_RETURN(Fd dev, OpenInRoot(root, "/dev", O_PATH | O_DIRECTORY));
  static constexpr const char* kLinks[][2] = {{"/proc/self/fd", "fd"},       {"/proc/self/fd/0", "stdin"},
                                              {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
                                              {"/proc/kcore", "core"},       {"pts/ptmx", "ptmx"}};
  for (const auto& link : kLinks)
    if (symlinkat(link[0], dev.get(), link[1]) < 0 && errno != EEXIST)
      return ErrnoStatus(errno, Cat("link `/dev/", link[1], "`"));
  return absl::OkStatus();
}

absl::Status MaskPaths(int root, const Plan& plan) {
  Fd tmpfs;  // one empty file system stands for every hidden directory
  for (const std::string& path : plan.masked_paths()) {
    absl::StatusOr<Fd> target = OpenInRoot(root, path, O_PATH);
    if (absl::IsNotFound(target.status())) continue;
    RETURN_IF_ERROR(target.status());
    struct stat st;
    if (fstat(target->get(), &st) < 0) return ErrnoStatus(errno, Cat("stat `", path, "`"));
    if (!S_ISDIR(st.st_mode)) {
      ASSIGN_OR_RETURN(Fd null, Clone(AT_FDCWD, "/dev/null", 0));
      if (fstat(null.get(), &st) < 0) return ErrnoStatus(errno, "stat `/dev/null`");
      if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
        return absl::FailedPreconditionError("`/dev/null` of the host is not the null device");
      RETURN_IF_ERROR(Attach(null.get(), target->get(), path));
    } else if (!tmpfs.valid()) {
      ASSIGN_OR_RETURN(tmpfs, NewMount("tmpfs", {"size=0k", "mode=755"}, MOUNT_ATTR_RDONLY));
      RETURN_IF_ERROR(Attach(tmpfs.get(), target->get(), path));
    } else {
      ASSIGN_OR_RETURN(Fd copy, Clone(tmpfs.get(), "", AT_EMPTY_PATH));
      RETURN_IF_ERROR(Attach(copy.get(), target->get(), path));
    }
  }
  for (const std::string& path : plan.readonly_paths()) {
    absl::StatusOr<Fd> target = OpenInRoot(root, path, O_PATH);
    if (absl::IsNotFound(target.status())) continue;
    RETURN_IF_ERROR(target.status());
    ASSIGN_OR_RETURN(Fd copy, Clone(target->get(), "", AT_EMPTY_PATH | AT_RECURSIVE));
    RETURN_IF_ERROR(SetAttributes(copy.get(), MOUNT_ATTR_RDONLY, AT_RECURSIVE, path));
    RETURN_IF_ERROR(Attach(copy.get(), target->get(), path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BuildFilesystem(const Plan& plan, const std::vector<Fd>& fds, const char*& step) {
  step = "root";
  int root = fds[static_cast<size_t>(plan.root())].get();
  if (mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    return ErrnoStatus(errno, "make `/` private");
  // Put over "/" itself: paths go on meaning the host's, because a walk from "/" starts below what covers it.
  if (move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
    return ErrnoStatus(errno, "attach the root file system");
  step = "mounts";
  for (const PlanMount& mount : plan.mounts())
    RETURN_IF_ERROR_AS(MakeMount(root, mount, fds), Cat("mount `", mount.target(), "`"));
  step = "devices";
  for (const PlanDevice& device : plan.devices()) RETURN_IF_ERROR(MakeDevice(root, device));
  if (plan.populate_dev()) RETURN_IF_ERROR(LinkDev(root));
  step = "sysctls";
  for (const PlanSysctl& sysctl : plan.sysctls()) {
    ASSIGN_OR_RETURN(Fd file, OpenInRoot(root, sysctl.path(), O_WRONLY));
    if (write(file.get(), sysctl.value().data(), sysctl.value().size()) < 0)
      return ErrnoStatus(errno, Cat("write `", sysctl.path(), "`"));
  }
  step = "cwd";
  RETURN_IF_ERROR(MakeDirsInRoot(root, plan.cwd()).status());
  step = "paths";
  RETURN_IF_ERROR(MaskPaths(root, plan));
  step = "root";
  if (plan.root_readonly()) RETURN_IF_ERROR(SetAttributes(root, MOUNT_ATTR_RDONLY, 0, "/"));
  if (plan.root_nosuid()) RETURN_IF_ERROR(SetAttributes(root, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, "/"));
  // pivot_root(2), section "pivot_root(".", ".")": the old root comes to lie over the new one and is taken
  // off.
  if (fchdir(root) < 0) return ErrnoStatus(errno, "enter the root file system");
  if (syscall(SYS_pivot_root, ".", ".") < 0) return ErrnoStatus(errno, "change the root file system");
  if (umount2(".", MNT_DETACH) < 0) return ErrnoStatus(errno, "unmount the old root");
  if (chdir("/") < 0) return ErrnoStatus(errno, "enter `/`");
  return absl::OkStatus();
}

}  // namespace sock::runtime
