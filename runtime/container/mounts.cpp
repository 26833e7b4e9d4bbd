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
#include "runtime/container/container.h"

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
  bool recursive_bind = false, apart = false;
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
    } else if (word == kCloneApart) {
      options.apart = true;
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

// `apart`: as kCloneApart says.
absl::StatusOr<Fd> CloneTree(const std::string& path, bool recursive, bool apart = false) {
  if (apart) {
    absl::StatusOr<Fd> tree = absl::InternalError("clone mount: no thread");
    std::thread([&] {
      tree = unshare(CLONE_NEWNS) == 0 ? CloneTree(path, recursive)
                                       : ErrnoStatus(errno, "make a mount namespace");
    }).join();
    return tree;
  }
  ASSIGN_OR_RETURN(Fd source, OpenPath(path, O_PATH));
  Fd tree(open_tree(source.get(), "",
                    OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0)));
  if (!tree.valid()) return ErrnoStatus(errno, Cat("clone mount `", path, "`"));
  return tree;
}

// Nothing of a writable layer outlives a reboot: so no container's end (nor its fsync(2) outside of volumes)
// need wait until the whole file system below is written to disk (overlayfs.rst, "Volatile mount";
// Linux 5.10).
constexpr char kVolatile[] = "volatile";

// Overlay marks a volatile layer, and refuses it while the mark is there. A try to build the container before
// this one, in the same boot, left nothing worse.
void ClearMark(const std::string& work_dir) { RemoveTree(work_dir + "/work/incompat").IgnoreError(); }

// Ids on disk are those of the user namespace from here on. Only a detached mount can be told so.
absl::Status IdMap(int tree, int user_ns, const std::string& what) {
  mount_attr attr{};
  attr.attr_set = MOUNT_ATTR_IDMAP;
  attr.userns_fd = static_cast<uint64_t>(user_ns);
  if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr) == 0) return absl::OkStatus();
  if (errno == EINVAL || errno == EOPNOTSUPP)
    return absl::InvalidArgumentError(Cat("`", what, "` lies on a file system that can't be idmapped"));
  return ErrnoStatus(errno, Cat("idmap `", what, "`"));
}

absl::StatusOr<Fd> CloneIdMapped(const std::string& path, int user_ns) {
  ASSIGN_OR_RETURN(Fd tree, CloneTree(path, false));
  RETURN_IF_ERROR(IdMap(tree.get(), user_ns, path));
  return tree;
}

// By a descriptor, since Linux 6.13; since 6.15 also of a detached mount.
absl::Status SetDirectory(int context, const char* key, const Fd& directory, const std::string& path) {
  if (fsconfig(context, FSCONFIG_SET_FD, key, nullptr, directory.get()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, Cat("set overlay's ", key, " to `", path, "`"));
}

absl::Status SetDirectory(int context, const char* key, const std::string& path) {
  int done = -1;
  if (path.size() <= kMaxKeyBytes) {
    done = fsconfig(context, FSCONFIG_SET_STRING, key, path.c_str(), 0);
  } else {
    ASSIGN_OR_RETURN(Fd directory, OpenPath(path, O_PATH | O_DIRECTORY));
    return SetDirectory(context, key, directory, path);
  }
  if (done == 0) return absl::OkStatus();
  absl::Status status = ErrnoStatus(errno, Cat("set overlay's ", key, " to `", path, "`"));
  return errno == ENOENT ? WithCode(status, absl::StatusCode::kNotFound) : status;
}

std::vector<std::string> Layers(const oci::Rootfs& rootfs) {
  std::vector<std::string> layers = rootfs.lower_dirs;
  if (!rootfs.upper_dir.empty() && !rootfs.mount_points.empty()) layers.push_back(rootfs.mount_points);
  return layers;
}

// The overlay for kernels before 6.7, which take all lower directories as one option. fsconfig(2) cuts that
// at 255 bytes, mount(2) at a page; so it is mounted, in a mount namespace of one thread that nothing else
// sees, with descriptors' numbers for names (below /proc/self/fd, the thread's working directory), and
// detached from there.
absl::StatusOr<Fd> MountOverlayOnce(const oci::Rootfs& rootfs, int user_ns) {
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
    for (const std::string& directory : Layers(rootfs)) {
      if (user_ns >= 0) {
        ASSIGN_OR_RETURN_AS(Fd layer, CloneIdMapped(directory, user_ns), "mount rootfs");
        if (move_mount(layer.get(), "", AT_FDCWD, directory.c_str(), MOVE_MOUNT_F_EMPTY_PATH) < 0)
          return ErrnoStatus(errno, "mount overlay: attach an idmapped layer");
      }
      RETURN_IF_ERROR(add(held.empty() ? "=" : ":", directory));
    }
    if (!rootfs.upper_dir.empty()) {
      RETURN_IF_ERROR(add(",upperdir=", rootfs.upper_dir));
      RETURN_IF_ERROR(add(",workdir=", rootfs.work_dir));
      ClearMark(rootfs.work_dir);
      options += Cat(",", kVolatile);
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

absl::StatusOr<Fd> MountRootfs(const oci::Rootfs& rootfs, int user_ns) {
  if (rootfs.lower_dirs.empty())
    return absl::InvalidArgumentError("rootfs.lower_dirs: there must be at least one");
  if (rootfs.upper_dir.empty() && rootfs.lower_dirs.size() == 1) {
    ASSIGN_OR_RETURN_AS(Fd tree, CloneTree(rootfs.lower_dirs[0], false), "mount rootfs");
    if (user_ns >= 0) RETURN_IF_ERROR(IdMap(tree.get(), user_ns, rootfs.lower_dirs[0]));
    mount_attr attr{};
    attr.attr_set = MOUNT_ATTR_RDONLY;
    attr.propagation = MS_PRIVATE;
    RETURN_IF_ERROR(SetAttributes(tree.get(), attr, 0, rootfs.lower_dirs[0]));
    return tree;
  }
  if (!ChecksOptions()) return MountOverlayOnce(rootfs, user_ns);
  Fd context(fsopen("overlay", FSOPEN_CLOEXEC));
  if (!context.valid()) return ErrnoStatus(errno, "open file system `overlay`");
  fsconfig(context.get(), FSCONFIG_SET_STRING, "source", "overlay", 0);
  std::vector<Fd> layers;  // a detached mount is one while its descriptor is open
  for (const std::string& directory : Layers(rootfs)) {
    absl::Status status;
    if (user_ns >= 0) {
      ASSIGN_OR_RETURN_AS(Fd layer, CloneIdMapped(directory, user_ns), "mount rootfs");
      status = SetDirectory(context.get(), "lowerdir+", layer, directory);
      layers.push_back(std::move(layer));
    } else {
      status = SetDirectory(context.get(), "lowerdir+", directory);
    }
    if (ErrnoOf(status) == EINVAL) return MountOverlayOnce(rootfs, user_ns);
    RETURN_IF_ERROR(status);
  }
  if (!rootfs.upper_dir.empty()) {
    RETURN_IF_ERROR(SetDirectory(context.get(), "upperdir", rootfs.upper_dir));
    RETURN_IF_ERROR(SetDirectory(context.get(), "workdir", rootfs.work_dir));
    ClearMark(rootfs.work_dir);
    if (fsconfig(context.get(), FSCONFIG_SET_FLAG, kVolatile, nullptr, 0) < 0)
      return ErrnoStatus(errno, "set overlay to volatile");
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    if (errno == EINVAL && user_ns >= 0) return MountOverlayOnce(rootfs, user_ns);  // Linux 6.13 and 6.14
    return ErrnoStatus(errno, "create overlay");
  }
  Fd made(fsmount(context.get(), FSMOUNT_CLOEXEC, rootfs.upper_dir.empty() ? MOUNT_ATTR_RDONLY : 0));
  if (!made.valid()) return ErrnoStatus(errno, "mount overlay");
  return made;
}

namespace {

// What images hold, read-only. The kernel clones a part of a detached mount since Linux 6.15.
absl::StatusOr<Fd> MountLayers(const Options& options, int user_ns) {
  oci::Rootfs rootfs;
  std::string subpath;
  for (const std::string& word : options.data) {
    if (word.starts_with("lowerdir+=")) {
      rootfs.lower_dirs.push_back(word.substr(10));
    } else if (word.starts_with("subpath=")) {
      subpath = word.substr(8);
    } else {
      return absl::InvalidArgumentError(Cat("option `", word, "` of an overlay is not lowerdir+ or subpath"));
    }
  }
  ASSIGN_OR_RETURN(Fd whole, MountRootfs(rootfs, user_ns));
  mount_attr attr = options.top;
  attr.attr_set |= options.all.attr_set | MOUNT_ATTR_RDONLY;
  attr.attr_clr = 0;
  RETURN_IF_ERROR(SetAttributes(whole.get(), attr, 0, "image"));
  if (subpath.empty()) return whole;
  ASSIGN_OR_RETURN_AS(Fd part, OpenInRoot(whole.get(), subpath, O_PATH),
                      Cat("path `", subpath, "` of the image"));
  Fd tree(open_tree(part.get(), "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
  if (!tree.valid() && errno == EINVAL)
    return absl::UnimplementedError(
        "image_sub_path: this kernel, before 6.15, can't mount a part of an image");
  if (!tree.valid()) return ErrnoStatus(errno, Cat("clone `", subpath, "` of the image"));
  return tree;
}

}  // namespace

absl::Status PrepareMount(const oci::Mount& mount, int user_ns, PlanMount& plan, Fd& tree) {
  if (!mount.destination.starts_with('/') || mount.destination.find_first_not_of("/.") == std::string::npos)
    return absl::InvalidArgumentError(
        Cat("mounts[].container_path: `", mount.destination, "` is not an absolute path below `/`"));
  Options options = Parse(mount.options);
  plan.set_target(mount.destination);
  plan.set_directory(true);
  bool bind = mount.type == "bind" || std::count(mount.options.begin(), mount.options.end(), "bind") ||
              std::count(mount.options.begin(), mount.options.end(), "rbind");
  if (mount.type == "overlay") {
    absl::StatusOr<Fd> layers = MountLayers(options, user_ns);
    if (!layers.ok()) return Annotate(layers.status(), Cat("mounts[].image at `", mount.destination, "`"));
    tree = *std::move(layers);
    struct stat st;
    if (fstat(tree.get(), &st) < 0) return ErrnoStatus(errno, Cat("stat `", mount.destination, "`"));
    plan.set_directory(S_ISDIR(st.st_mode));
    return absl::OkStatus();
  }
  if (!bind) {
    plan.set_type(mount.type == "cgroup2" ? "cgroup" : mount.type);
    plan.set_attributes(options.top.attr_set | options.all.attr_set);
    if (plan.type() == "cgroup") return ListCgroups(plan);
    for (std::string& word : options.data)
      if (plan.type() == "tmpfs" || word != "newinstance") plan.add_options(std::move(word));
    return absl::OkStatus();
  }
  if (!tree.valid()) {
    absl::StatusOr<Fd> cloned = CloneTree(mount.source, options.recursive_bind, options.apart);
    if (!cloned.ok()) return Annotate(cloned.status(), Cat("mounts[].host_path `", mount.source, "`"));
    tree = *std::move(cloned);
  }
  struct stat st;
  if (fstat(tree.get(), &st) < 0) return ErrnoStatus(errno, Cat("stat `", mount.source, "`"));
  plan.set_directory(S_ISDIR(st.st_mode));
  if (user_ns >= 0) RETURN_IF_ERROR_AS(IdMap(tree.get(), user_ns, mount.source), "mounts[].uidMappings");
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
