#include "runtime/pins.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/ids.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

absl::Status Missing(int err, const std::string& what) {
  absl::Status status = ErrnoStatus(err, what);
  return err == ENOENT ? WithCode(status, absl::StatusCode::kNotFound) : status;
}

constexpr char kDoomed[] = ".gone-";

// A new file system, detached.
absl::StatusOr<Fd> Tmpfs(const std::vector<std::pair<const char*, const char*>>& options,
                         unsigned attributes) {
  Fd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context.valid()) return ErrnoStatus(errno, "open a tmpfs");
  for (auto [key, value] : options)
    if (fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0) < 0)
      return ErrnoStatus(errno, Cat("set `", key, "` of a tmpfs"));
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0)
    return ErrnoStatus(errno, "create a tmpfs");
  Fd made(fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
  if (!made.valid()) return ErrnoStatus(errno, "mount a tmpfs");
  return made;
}

absl::Status Attach(int mount, int dir, const char* name) {
  if (move_mount(mount, "", dir, name, MOVE_MOUNT_F_EMPTY_PATH) < 0)
    return ErrnoStatus(errno, Cat("mount on `", name, "`"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Pins>> Pins::Open(const std::string& dir) {
  std::unique_ptr<Pins> pins(new Pins);
  pins->dir_ = dir;
  RETURN_IF_ERROR(MakeDirs(dir, 0700));
  pins->thread_ = std::thread([&pins = *pins] { pins.Run(); });
  // On this thread, which stays in the host's mount namespace: where ours is held.
  const std::string file = dir + "/mounts";
  struct statfs fs;
  Fd held;
  if (statfs(file.c_str(), &fs) == 0 && fs.f_type == NSFS_MAGIC) {
    ASSIGN_OR_RETURN(held, OpenPath(file, O_RDONLY));
    RETURN_IF_ERROR(pins->Do([&]() -> absl::Status {
      if (unshare(CLONE_FS) < 0 || setns(held.get(), CLONE_NEWNS) < 0)
        return ErrnoStatus(errno, "enter the mount namespace of the sandboxes");
      return absl::OkStatus();
    }));
  } else {
    std::string own;
    RETURN_IF_ERROR(pins->Do([&]() -> absl::Status {
      if (unshare(CLONE_FS | CLONE_NEWNS) < 0) return ErrnoStatus(errno, "make a mount namespace");
      // Nothing of the host's is kept in it: what the host unmounts must not live on here.
      if (mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
        return ErrnoStatus(errno, "make `/` private");
      ASSIGN_OR_RETURN(
          Fd root, Tmpfs({{"source", "cri-sock"}, {"mode", "0700"}}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
      RETURN_IF_ERROR(Attach(root.get(), AT_FDCWD, dir.c_str()));
      if (fchdir(root.get()) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
          chdir("/") < 0)
        return ErrnoStatus(errno, "change the root of the sandboxes' mount namespace");
      own = Cat("/proc/", getpid(), "/task/", syscall(SYS_gettid), "/ns/mnt");
      return absl::OkStatus();
    }));
    // The kernel holds a mount namespace in a mount only where that spreads to no other
    // (mount_namespaces(7)).
    if (mount(dir.c_str(), dir.c_str(), nullptr, MS_BIND, nullptr) < 0)
      return ErrnoStatus(errno, Cat("bind `", dir, "`"));
    absl::Cleanup undo = [&] { umount2(dir.c_str(), MNT_DETACH); };
    if (mount("", dir.c_str(), nullptr, MS_PRIVATE, nullptr) < 0)
      return ErrnoStatus(errno, Cat("make `", dir, "` private"));
    ASSIGN_OR_RETURN(Fd place, OpenPath(file, O_CREAT | O_RDONLY, 0600));
    if (mount(own.c_str(), file.c_str(), nullptr, MS_BIND, nullptr) < 0)
      return ErrnoStatus(errno, Cat("hold a mount namespace at `", file, "`"));
    std::move(undo).Cancel();
  }
  RETURN_IF_ERROR(pins->Do([&]() -> absl::Status {
    ASSIGN_OR_RETURN(pins->root_, OpenPath("/", O_RDONLY | O_DIRECTORY));
    return absl::OkStatus();
  }));
  // What a daemon before this one was about to take off.
  for (const std::string& name : pins->List())
    if (name.starts_with(kDoomed)) pins->Remove(name);
  return pins;
}

Pins::~Pins() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
  if (!root_.valid() || !List().empty()) return;
  root_.Reset();
  umount2((dir_ + "/mounts").c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  unlink((dir_ + "/mounts").c_str());
  // Once for each daemon that was killed between the two mounts of Open.
  while (umount2(dir_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
  }
}

absl::Status Pins::Do(const std::function<absl::Status()>& task) {
  std::optional<absl::Status> result;
  std::unique_lock lock(mutex_);
  tasks_.push_back([&] {
    absl::Status status = task();
    std::lock_guard done(mutex_);
    result = std::move(status);
    done_.notify_all();
  });
  wake_.notify_one();
  done_.wait(lock, [&] { return result.has_value(); });
  return *std::move(result);
}

void Pins::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (!tasks_.empty()) {
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    } else if (!doomed_.empty()) {  // those that wait come first
      std::string name = std::move(doomed_.front());
      doomed_.pop_front();
      lock.unlock();
      TakeOff(name);
      lock.lock();
    } else if (closing_) {
      return;
    } else {
      wake_.wait(lock);
    }
  }
}

// ID/m is a tmpfs that carries all else, so that one umount(2) takes everything off; ID itself can be
// renamed.
absl::Status Pins::Mount(const std::string& id, const std::vector<std::pair<std::string, int>>& namespaces,
                         std::optional<Owner> shm) {
  if (mkdir(id.c_str(), 0700) < 0) return ErrnoStatus(errno, Cat("make directory `", id, "`"));
  absl::Cleanup undo = [&] { TakeOff(id); };
  ASSIGN_OR_RETURN(Fd tree, Tmpfs({{"mode", "0700"}}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  const std::string at = id + "/m";
  if (mkdir(at.c_str(), 0700) < 0) return ErrnoStatus(errno, Cat("make directory `", at, "`"));
  RETURN_IF_ERROR(Attach(tree.get(), AT_FDCWD, at.c_str()));
  for (const auto& [kind, fd] : namespaces) {
    Fd file(openat(tree.get(), kind.c_str(), O_CREAT | O_EXCL | O_RDONLY | O_CLOEXEC, 0600));
    Fd copy(open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
    if (!file.valid() || !copy.valid()) return ErrnoStatus(errno, Cat("pin namespace `", kind, "`"));
    RETURN_IF_ERROR(Attach(copy.get(), tree.get(), kind.c_str()));
  }
  if (shm) {
    const std::string uid = Cat(shm->uid), gid = Cat(shm->gid);
    ASSIGN_OR_RETURN(Fd memory, Tmpfs({{"source", "shm"},
                                       {"mode", "1777"},
                                       {"size", "65536k"},
                                       {"uid", uid.c_str()},
                                       {"gid", gid.c_str()}},
                                      MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
    if (mkdirat(tree.get(), "shm", 0700) < 0) return ErrnoStatus(errno, "make directory `shm`");
    RETURN_IF_ERROR(Attach(memory.get(), tree.get(), "shm"));
  }
  std::move(undo).Cancel();
  return absl::OkStatus();
}

absl::Status Pins::Add(const std::string& id, const std::vector<std::pair<std::string, int>>& namespaces,
                       std::optional<Owner> shm) {
  RETURN_IF_ERROR(CheckId(id, "sandbox id"));
  return Annotate(Do([&] { return Mount(id, namespaces, shm); }), "pin the sandbox");
}

absl::Status Pins::Rename(const std::string& from, const std::string& to) {
  RETURN_IF_ERROR(CheckId(to, "sandbox id"));
  if (renameat2(root_.get(), from.c_str(), root_.get(), to.c_str(), RENAME_NOREPLACE) < 0)
    return ErrnoStatus(errno, Cat("rename pins `", from, "`"));
  return absl::OkStatus();
}

absl::StatusOr<Fd> Pins::Namespace(const std::string& id, const std::string& kind) const {
  Fd fd(openat(root_.get(), Cat(id, "/m/", kind).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return Missing(errno, Cat("open namespace `", kind, "` of sandbox `", id, "`"));
  return fd;
}

absl::StatusOr<Fd> Pins::Shm(const std::string& id) {
  Fd tree;
  RETURN_IF_ERROR(Do([&]() -> absl::Status {
    tree = Fd(open_tree(AT_FDCWD, Cat(id, "/m/shm").c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    if (!tree.valid()) return Missing(errno, Cat("clone /dev/shm of sandbox `", id, "`"));
    return absl::OkStatus();
  }));
  return tree;
}

void Pins::Remove(const std::string& id) {
  std::string name = id.starts_with(kDoomed) ? id : kDoomed + NewId();
  if (name != id && renameat(root_.get(), id.c_str(), root_.get(), name.c_str()) < 0) return;
  std::lock_guard lock(mutex_);
  doomed_.push_back(std::move(name));
  wake_.notify_one();
}

void Pins::TakeOff(const std::string& name) const {
  umount2((name + "/m").c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  rmdir((name + "/m").c_str());
  rmdir(name.c_str());
}

std::vector<std::string> Pins::List() const {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(Cat("/proc/self/fd/", root_.get()), ignored))
    names.push_back(entry.path().filename().string());
  return names;
}

}  // namespace sock::runtime
