#include "runtime/container/mounts.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

constexpr size_t kMaxKeyBytes = 255;  // of a string given to fsconfig(2)

struct Word {
  const char* name;
  uint64_t set, clear;
  bool recursive;
};
constexpr Word kWords[] = {{"ro", MOUNT_ATTR_RDONLY, 0, false},
                           {"rw", 0, MOUNT_ATTR_RDONLY, false},
                           {"nosuid", MOUNT_ATTR_NOSUID, 0, false},
                           {"suid", 0, MOUNT_ATTR_NOSUID, false},
                           {"nodev", MOUNT_ATTR_NODEV, 0, false},
                           {"dev", 0, MOUNT_ATTR_NODEV, false},
                           {"noexec", MOUNT_ATTR_NOEXEC, 0, false},
                           {"exec", 0, MOUNT_ATTR_NOEXEC, false},
                           {"nodiratime", MOUNT_ATTR_NODIRATIME, 0, false},
                           {"diratime", 0, MOUNT_ATTR_NODIRATIME, false},
                           {"noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME, false},
                           {"strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME, false},
                           {"relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME, false},
                           {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0, false},
                           {"rro", MOUNT_ATTR_RDONLY, 0, true},
                           {"rnosuid", MOUNT_ATTR_NOSUID, 0, true},
                           {"rnodev", MOUNT_ATTR_NODEV, 0, true},
                           {"rnoexec", MOUNT_ATTR_NOEXEC, 0, true}};

struct Options {
  mount_attr top{}, all{};  // for the mount itself; for everything below it too
  bool recursive_bind = false;
  uint64_t propagation = MS_PRIVATE;
  bool recursive_propagation = true;
  std::vector<std::string> data;
};

Options Parse(const std::vector<std::string>& words) {
  Options options;
  for (const std::string& word : words) {
    const Word* known = std::find_if(std::begin(kWords), std::end(kWords),
                                     [&](const Word& candidate) { return word == candidate.name; });
    std::string_view plain = word;
    if (plain.starts_with('r')) plain.remove_prefix(1);
    if (known != std::end(kWords)) {
      mount_attr& attr = known->recursive ? options.all : options.top;
      attr.attr_set = (attr.attr_set & ~known->clear) | known->set;
      attr.attr_clr = (attr.attr_clr & ~known->set) | known->clear;
    } else if (word == "bind" || word == "rbind") {
      options.recursive_bind |= word == "rbind";
    } else if (plain == "private" || plain == "slave" || plain == "shared" || plain == "unbindable") {
      options.propagation = plain == "private"  ? MS_PRIVATE
                            : plain == "slave"  ? MS_SLAVE
                            : plain == "shared" ? MS_SHARED
                                                : MS_UNBINDABLE;
      options.recursive_propagation = plain != word;
    } else if (word != "defaults" && word != "async" && word != "tmpcopyup" && !word.empty()) {
      options.data.push_back(word);
    }
  }
  return options;
}

absl::Status SetAttributes(int tree, mount_attr attr, unsigned flags, const std::string& what) {
  if (!attr.attr_set && !attr.attr_clr && !attr.propagation) return absl::OkStatus();
  if (mount_setattr(tree, "", AT_EMPTY_PATH | flags, &attr, sizeof attr) < 0)
    return ErrnoStatus(errno, Cat("change mount of `", what, "`"));
  return absl::OkStatus();
}

absl::StatusOr<Fd> CloneTree(const std::string& path, bool recursive) {
  ASSIGN_OR_RETURN(Fd source, OpenPath(path, O_PATH));
  Fd tree(open_tree(source.get(), "",
                    OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0)));
  if (!tree.valid()) return ErrnoStatus(errno, Cat("clone mount `", path, "`"));
  return tree;
}

absl::Status SetDirectory(int context, const char* key, const std::string& path) {
  int done = -1;
  if (path.size() <= kMaxKeyBytes) {
    done = fsconfig(context, FSCONFIG_SET_STRING, key, path.c_str(), 0);
  } else {  // by descriptor, since Linux 6.13
    ASSIGN_OR_RETURN(Fd directory, OpenPath(path, O_PATH | O_DIRECTORY));
    done = fsconfig(context, FSCONFIG_SET_FD, key, nullptr, directory.get());
  }
  if (done == 0) return absl::OkStatus();
  absl::Status status = ErrnoStatus(errno, Cat("set overlay's ", key, " to `", path, "`"));
  return errno == ENOENT ? WithCode(status, absl::StatusCode::kNotFound) : status;
}

// The overlay for kernels before 6.7, which take all lower directories as one option. fsconfig(2) cuts that
// at 255 bytes, mount(2) at a page; so it is mounted, in a mount namespace of one thread that nothing else
// sees, with descriptors' numbers for names (below /proc/self/fd, the thread's working directory), and
// detached from there.
absl::StatusOr<Fd> MountOverlayOnce(const oci::Rootfs& rootfs) {
  auto mount_it = [&]() -> absl::StatusOr<Fd> {
    if (unshare(CLONE_NEWNS) < 0) return ErrnoStatus(errno, "mount overlay: make a mount namespace");
    if (mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
      return ErrnoStatus(errno, "mount overlay: make `/` private");
    if (chdir("/proc/self/fd") < 0) return ErrnoStatus(errno, "mount overlay: enter `/proc/self/fd`");
    std::vector<Fd> held;  // of this namespace: overlay takes no others
    std::string options = "lowerdir";
    auto add = [&](const char* before, const std::string& path) {
      ASSIGN_OR_RETURN(Fd directory, OpenPath(path, O_PATH | O_DIRECTORY));
      options += Cat(before, directory.get());
      held.push_back(std::move(directory));
      return absl::OkStatus();
    };
    for (const std::string& directory : rootfs.lower_dirs)
      RETURN_IF_ERROR(add(held.empty() ? "=" : ":", directory));
    if (!rootfs.upper_dir.empty()) {
      RETURN_IF_ERROR(add(",upperdir=", rootfs.upper_dir));
      RETURN_IF_ERROR(add(",workdir=", rootfs.work_dir));
    }
    const std::string& place = rootfs.lower_dirs.front();
    unsigned long flags = rootfs.upper_dir.empty() ? MS_RDONLY : 0;
    if (mount("overlay", place.c_str(), "overlay", flags, options.c_str()) < 0)
      return ErrnoStatus(errno, "mount overlay");
    Fd made(open_tree(AT_FDCWD, place.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    if (!made.valid()) return ErrnoStatus(errno, "mount overlay: clone it");
    return made;
  };
  absl::StatusOr<Fd> made = absl::InternalError("mount overlay: no thread");
  std::thread([&] { made = mount_it(); }).join();
  return made;
}

// Whether fsconfig(2) hands "lowerdir+" to overlay itself. Where it only collects options for mount(2)'s way
// (before 6.5), it takes any name.
bool ChecksOptions() {
  static const bool checks = [] {
    Fd context(fsopen("overlay", FSOPEN_CLOEXEC));
    return context.valid() && fsconfig(context.get(), FSCONFIG_SET_FLAG, "no-such-option", nullptr, 0) < 0;
  }();
  return checks;
}

// "cgroup": every hierarchy that the host has mounted under the same directory names.
absl::Status ListCgroups(PlanMount& plan) {
  ASSIGN_OR_RETURN(std::string table, ReadFile("/proc/self/mountinfo"));
  std::vector<std::string> seen;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(table, '\n', absl::SkipEmpty()))) {
    std::vector<std::string> fields = absl::StrSplit(line, ' ');
    auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 5 || fields.end() - dash < 4 || !fields[4].starts_with("/sys/fs/cgroup")) continue;
    const std::string& type = dash[1];
    if (type != "cgroup" && type != "cgroup2") continue;
    size_t root = std::string("/sys/fs/cgroup").size();
    std::string name = fields[4].size() > root ? fields[4].substr(root + 1) : "";
    if (name.find('/') != std::string::npos || std::count(seen.begin(), seen.end(), name)) continue;
    std::string controllers;
    for (const std::string& option : std::vector<std::string>(absl::StrSplit(dash[3], ','))) {
      bool named = option.starts_with("name=");
      if (!named && (option.find('=') != std::string::npos || option == "rw" || option == "ro" ||
                     option == "xattr" || option == "clone_children" || option == "noprefix" ||
                     option == "cpuset_v2_mode" || option == "favordynmods" || option == "nofavordynmods"))
        continue;
      controllers += (controllers.empty() ? "" : ",") + option;
    }
    if (type == "cgroup" && (name.empty() || controllers.empty())) continue;
    seen.push_back(name);
    PlanMount::Cgroup* cgroup = plan.add_cgroups();
    cgroup->set_directory(name);
    cgroup->set_unified(type == "cgroup2");
    if (type == "cgroup") cgroup->set_options(controllers);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Fd> MountRootfs(const oci::Rootfs& rootfs) {
  if (rootfs.lower_dirs.empty())
    return absl::InvalidArgumentError("rootfs.lower_dirs: there must be at least one");
  if (rootfs.upper_dir.empty() && rootfs.lower_dirs.size() == 1) {
    ASSIGN_OR_RETURN_AS(Fd tree, CloneTree(rootfs.lower_dirs[0], false), "mount rootfs");
    mount_attr attr{};
    attr.attr_set = MOUNT_ATTR_RDONLY;
    attr.propagation = MS_PRIVATE;
    RETURN_IF_ERROR(SetAttributes(tree.get(), attr, 0, rootfs.lower_dirs[0]));
    return tree;
  }
  if (!ChecksOptions()) return MountOverlayOnce(rootfs);
  Fd context(fsopen("overlay", FSOPEN_CLOEXEC));
  if (!context.valid()) return ErrnoStatus(errno, "open file system `overlay`");
  fsconfig(context.get(), FSCONFIG_SET_STRING, "source", "overlay", 0);
  for (const std::string& directory : rootfs.lower_dirs) {
    absl::Status status = SetDirectory(context.get(), "lowerdir+", directory);
    if (ErrnoOf(status) == EINVAL) return MountOverlayOnce(rootfs);
    RETURN_IF_ERROR(status);
  }
  if (!rootfs.upper_dir.empty()) {
    RETURN_IF_ERROR(SetDirectory(context.get(), "upperdir", rootfs.upper_dir));
    RETURN_IF_ERROR(SetDirectory(context.get(), "workdir", rootfs.work_dir));
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    return ErrnoStatus(errno, "create overlay");
  Fd made(fsmount(context.get(), FSMOUNT_CLOEXEC, rootfs.upper_dir.empty() ? MOUNT_ATTR_RDONLY : 0));
  if (!made.valid()) return ErrnoStatus(errno, "mount overlay");
  return made;
}

absl::Status PrepareMount(const oci::Mount& mount, PlanMount& plan, Fd& tree) {
  if (!mount.destination.starts_with('/') || mount.destination.find_first_not_of("/.") == std::string::npos)
    return absl::InvalidArgumentError(
        Cat("mounts[].container_path: `", mount.destination, "` is not an absolute path below `/`"));
  if (!mount.uid_mappings.empty() || !mount.gid_mappings.empty())
    return absl::UnimplementedError("mounts[].uid_mappings: idmapped mounts are not supported");
  Options options = Parse(mount.options);
  plan.set_target(mount.destination);
  plan.set_directory(true);
  bool bind = mount.type == "bind" || std::count(mount.options.begin(), mount.options.end(), "bind") ||
              std::count(mount.options.begin(), mount.options.end(), "rbind");
  if (!bind) {
    plan.set_type(mount.type == "cgroup2" ? "cgroup" : mount.type);
    plan.set_attributes(options.top.attr_set | options.all.attr_set);
    if (plan.type() == "cgroup") return ListCgroups(plan);
    for (std::string& word : options.data)
      if (plan.type() == "tmpfs" || word != "newinstance") plan.add_options(std::move(word));
    return absl::OkStatus();
  }
  absl::StatusOr<Fd> cloned = CloneTree(mount.source, options.recursive_bind);
  if (!cloned.ok()) return Annotate(cloned.status(), Cat("mounts[].host_path `", mount.source, "`"));
  tree = *std::move(cloned);
  struct stat st;
  if (fstat(tree.get(), &st) < 0) return ErrnoStatus(errno, Cat("stat `", mount.source, "`"));
  plan.set_directory(S_ISDIR(st.st_mode));
  // Propagation first: what is changed below must not be changed at the host's peers (it never is: flags are
  // of one mount).
  mount_attr spread{};
  spread.propagation = options.propagation;
  RETURN_IF_ERROR(
      SetAttributes(tree.get(), spread, options.recursive_propagation ? AT_RECURSIVE : 0, mount.source));
  RETURN_IF_ERROR(SetAttributes(tree.get(), options.top, 0, mount.source));
  return SetAttributes(tree.get(), options.all, AT_RECURSIVE, mount.source);
}

}  // namespace sock::runtime
