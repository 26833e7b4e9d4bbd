#include "oci/unpack_tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "oci/digest.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

constexpr size_t kMaxDepth = 512;           // components of a path
constexpr size_t kMaxEntries = 10'000'000;  // inodes are no cheaper than bytes
constexpr size_t kMaxImplied = 4 << 20;     // bytes of paths
constexpr std::string_view kWhiteout = ".wh.", kOpaque = ".wh..wh..opq", kAufs = ".wh..wh.";

struct FreeArchive {
  void operator()(archive* a) const { archive_read_free(a); }
};
using ArchivePtr = std::unique_ptr<archive, FreeArchive>;

std::string ArchiveError(archive* a) {
  const char* text = archive_error_string(a);
  return text ? text : "unknown archive error";
}

// Decompresses the blob, counting and hashing what comes out.
class Inflater {
 public:
  Inflater(int fd, const UnpackOptions& options) : options_(options), archive_(archive_read_new()) {
    archive_read_support_filter_gzip(archive_.get());
    archive_read_support_filter_zstd(archive_.get());
    archive_read_support_format_raw(archive_.get());
    archive_read_support_format_empty(archive_.get());
    archive_entry* entry = nullptr;
    int rc = archive_read_open_fd(archive_.get(), fd, buffer_.size());
    if (rc == ARCHIVE_OK) rc = archive_read_next_header(archive_.get(), &entry);
    if (rc == ARCHIVE_EOF) {
      ended_ = true;
    } else if (rc < ARCHIVE_WARN) {
      status_ = Broken();
    }
  }

  // The next bytes; 0 at the end; -1 on an error (see status).
  ssize_t Next(const void** data) {
    if (!status_.ok()) return -1;
    if (ended_) return 0;
    if (options_.cancelled && options_.cancelled()) {
      status_ = absl::CancelledError("cancelled");
      return -1;
    }
    const la_ssize_t n = archive_read_data(archive_.get(), buffer_.data(), buffer_.size());
    if (n < 0) {
      status_ = Broken();
      return -1;
    }
    ended_ = n == 0;
    total_ += static_cast<uint64_t>(n);
    if (total_ > options_.max_bytes) {
      status_ = absl::ResourceExhaustedError(
          Cat("the unpacked layer is larger than the limit of ", options_.max_bytes, " bytes"));
      return -1;
    }
    hash_.Update(buffer_.data(), static_cast<size_t>(n));
    *data = buffer_.data();
    return n;
  }

  const absl::Status& status() const { return status_; }
  std::string Digest() { return hash_.Digest(); }

 private:
  absl::Status Broken() {
    return absl::InvalidArgumentError(Cat("decompress: ", ArchiveError(archive_.get())));
  }

  const UnpackOptions& options_;
  ArchivePtr archive_;
  std::array<char, 256 << 10> buffer_;
  absl::Status status_;
  uint64_t total_ = 0;
  bool ended_ = false;
  Sha256Hash hash_;
};

la_ssize_t ReadInflated(archive*, void* data, const void** out) {
  return static_cast<Inflater*>(data)->Next(out);
}

struct Path {
  std::string parent, name;  // name empty: the root
  std::string whole() const { return parent.empty() ? name : Cat(parent, "/", name); }
};

// A path of the tar, made relative to the layer's root. "" and "." vanish, ".." is refused.
absl::StatusOr<Path> ParsePath(const char* text, std::string_view what) {
  if (!text) return absl::InvalidArgumentError(Cat(what, " is missing or can't be read"));
  const std::string_view whole = text;
  if (whole.size() >= PATH_MAX) return absl::InvalidArgumentError(Cat(what, " is too long"));
  Path path;
  size_t depth = 0;
  for (size_t at = 0; at < whole.size();) {
    size_t slash = whole.find('/', at);
    if (slash == std::string_view::npos) slash = whole.size();
    const std::string_view part = whole.substr(at, slash - at);
    at = slash + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return absl::InvalidArgumentError(Cat(what, " `", whole, "` holds `..`"));
    if (part.size() > NAME_MAX || ++depth > kMaxDepth) {
      return absl::InvalidArgumentError(Cat(what, " is too long"));
    }
    path.parent = path.whole();
    path.name = part;
  }
  return path;
}

struct Meta {
  uid_t uid = 0;
  gid_t gid = 0;
  mode_t mode = 0;
  timespec times[2]{};
};

absl::StatusOr<Meta> ReadMeta(archive_entry* entry) {
  Meta meta;
  const int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
  if (uid < 0 || gid < 0 || uid >= UINT32_MAX || gid >= UINT32_MAX) {
    return absl::InvalidArgumentError("owner is out of range");
  }
  meta.uid = static_cast<uid_t>(uid);
  meta.gid = static_cast<gid_t>(gid);
  meta.mode = archive_entry_perm(entry) & 07777;
  meta.times[1] = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
  if (meta.times[1].tv_nsec < 0 || meta.times[1].tv_nsec > 999999999) meta.times[1].tv_nsec = 0;
  meta.times[0] = meta.times[1];
  return meta;
}

// Attributes that an image may carry. trusted.* (overlayfs's own words) and labels of this host are not.
bool WantedXattr(std::string_view name) {
  return name == "security.capability" || name == "system.posix_acl_access" ||
         name == "system.posix_acl_default" ||
         (name.starts_with("user.") && !name.starts_with("user.overlay."));
}

class Unpacker {
 public:
  Unpacker(int root, const UnpackOptions& options) : root_(root), options_(options) {}

  absl::Status Entry(archive* tar, archive_entry* entry) {
    if (++entries_ > kMaxEntries) {
      return absl::ResourceExhaustedError(Cat("the layer has more than ", kMaxEntries, " entries"));
    }
    ASSIGN_OR_RETURN(const Path path, ParsePath(archive_entry_pathname(entry), "path"));
    return Annotate(Entry(tar, entry, path), Cat("entry `", path.whole(), "`"));
  }

  std::vector<std::string> TakeImplied() { return {implied_.begin(), implied_.end()}; }

  // Directories' times, which later entries would have changed.
  absl::Status Finish() {
    for (const auto& [path, meta] : directories_) {
      auto fd = OpenInRoot(root_, path, O_RDONLY | O_DIRECTORY);
      if (!fd.ok()) continue;  // replaced by a later entry
      if (futimens(fd->get(), meta.times) < 0) return ErrnoStatus(errno, Cat("set times of `", path, "`"));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Entry(archive* tar, archive_entry* entry, const Path& path) {
    ASSIGN_OR_RETURN(const Meta meta, ReadMeta(entry));
    if (path.name.empty()) {
      if (archive_entry_filetype(entry) != AE_IFDIR || archive_entry_hardlink(entry)) {
        return absl::InvalidArgumentError("the root is not a directory");
      }
      return SetDirectory(root_, path, entry, meta);
    }
    auto parent = OpenParent(path.parent);
    if (!parent.ok()) return BadPath(parent.status());
    const int dir = parent->get();
    if (path.name == kOpaque) return SetOpaque(dir);
    if (path.name.starts_with(kAufs)) return absl::OkStatus();  // aufs's own bookkeeping
    if (path.name.starts_with(kWhiteout)) return Whiteout(dir, path.name.substr(kWhiteout.size()));
    if (archive_entry_hardlink(entry)) return HardLink(dir, path, archive_entry_hardlink(entry));

    const char* name = path.name.c_str();
    switch (archive_entry_filetype(entry)) {
      case AE_IFREG:
        RETURN_IF_ERROR(Clear(dir, path.name));
        return File(dir, name, tar, entry, meta);
      case AE_IFDIR:
        return Directory(dir, path, entry, meta);
      case AE_IFLNK: {
        const char* target = archive_entry_symlink(entry);
        if (!target || !*target) return absl::InvalidArgumentError("symlink has no target");
        RETURN_IF_ERROR(Clear(dir, path.name));
        if (symlinkat(target, dir, name) < 0) return ErrnoStatus(errno, "make symlink");
        return SetMeta(dir, path.name, entry, meta, true);
      }
      case AE_IFCHR:
      case AE_IFBLK:
      case AE_IFIFO: {
        RETURN_IF_ERROR(Clear(dir, path.name));
        const dev_t device = makedev(archive_entry_rdevmajor(entry), archive_entry_rdevminor(entry));
        const mode_t type = archive_entry_filetype(entry);
        if (mknodat(dir, name, type | 0600, type == AE_IFIFO ? 0 : device) < 0) {
          return ErrnoStatus(errno, "make device node");
        }
        return SetMeta(dir, path.name, entry, meta, false);
      }
      case AE_IFSOCK:
        return absl::OkStatus();  // means nothing without its server
      default:
        return absl::InvalidArgumentError("is of an unknown type");
    }
  }

  // What a hostile tar can cause by symlinks and files in the way is its own fault, not this machine's.
  static absl::Status BadPath(const absl::Status& status) {
    const int err = ErrnoOf(status);
    if (absl::IsNotFound(status) || err == ELOOP || err == EXDEV || err == ENAMETOOLONG || err == ENOTDIR ||
        err == EEXIST) {
      return WithCode(status, absl::StatusCode::kInvalidArgument);
    }
    return status;
  }

  absl::StatusOr<Fd> OpenParent(const std::string& parent) {
    auto fd = OpenInRoot(root_, parent, O_RDONLY | O_DIRECTORY);
    if (fd.ok() || !absl::IsNotFound(fd.status())) return fd;
    // Not in the tar, so far at least. Each prefix is resolved from the root again: symlinks stay inside.
    std::string above;
    for (size_t slash = 0; slash < parent.size();) {
      const size_t start = slash == 0 ? 0 : slash + 1;
      slash = std::min(parent.find('/', start), parent.size());
      const std::string here = parent.substr(0, slash), name = parent.substr(start, slash - start);
      fd = OpenInRoot(root_, here, O_RDONLY | O_DIRECTORY);
      if (absl::IsNotFound(fd.status())) {
        ASSIGN_OR_RETURN(const Fd dir, OpenInRoot(root_, above, O_RDONLY | O_DIRECTORY));
        if (mkdirat(dir.get(), name.c_str(), 0755) < 0)
          return ErrnoStatus(errno, "make its parent directory");
        implied_.insert(here);
        if ((implied_bytes_ += here.size()) > kMaxImplied) {
          return absl::ResourceExhaustedError("the layer has too many directories without an entry");
        }
        fd = OpenInRoot(root_, here, O_RDONLY | O_DIRECTORY);
      }
      RETURN_IF_ERROR(fd.status());
      above = here;
    }
    return fd;
  }

  // Makes way for an entry: a later one of the same name wins.
  static absl::Status Clear(int dir, const std::string& name) {
    if (unlinkat(dir, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
    if (fchdir(dir) < 0) return ErrnoStatus(errno, "change directory");
    return RemoveTree(name);
  }

  static absl::Status SetOpaque(int dir) {
    if (fsetxattr(dir, "trusted.overlay.opaque", "y", 1, 0) < 0) return ErrnoStatus(errno, "mark as opaque");
    return absl::OkStatus();
  }

  static bool IsWhiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }

  // Hides `name` of the layers below; what this layer itself has of that name stays.
  static absl::Status Whiteout(int dir, const std::string& name) {
    if (name.empty() || name == "." || name == "..") return absl::InvalidArgumentError("whiteout of no file");
    if (mknodat(dir, name.c_str(), S_IFCHR, 0) == 0) return absl::OkStatus();
    if (errno != EEXIST) return ErrnoStatus(errno, "make whiteout");
    Fd there(openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    return there.valid() ? SetOpaque(there.get()) : absl::OkStatus();
  }

  absl::Status HardLink(int dir, const Path& path, const char* text) {
    ASSIGN_OR_RETURN(const Path target, ParsePath(text, "hard link's target"));
    if (target.name.empty()) return absl::InvalidArgumentError("hard link to the root");
    auto parent = OpenInRoot(root_, target.parent, O_PATH | O_DIRECTORY);
    if (!parent.ok()) return BadPath(parent.status());
    // linkat(2) without AT_SYMLINK_FOLLOW: the last component is linked as it is.
    if (linkat(parent->get(), target.name.c_str(), dir, path.name.c_str(), 0) == 0) return absl::OkStatus();
    if (errno == EEXIST) {
      struct stat a, b;
      if (fstatat(parent->get(), target.name.c_str(), &a, AT_SYMLINK_NOFOLLOW) == 0 &&
          fstatat(dir, path.name.c_str(), &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_ino == b.st_ino &&
          a.st_dev == b.st_dev) {
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(Clear(dir, path.name));
      if (linkat(parent->get(), target.name.c_str(), dir, path.name.c_str(), 0) == 0) return absl::OkStatus();
    }
    const int err = errno;
    const absl::Status status = ErrnoStatus(err, Cat("hard link to `", target.whole(), "`"));
    if (err == ENOENT || err == EPERM || err == ENOTDIR) {  // missing, or a directory
      return WithCode(status, absl::StatusCode::kInvalidArgument);
    }
    return status;
  }

  absl::Status File(int dir, const char* name, archive* tar, archive_entry* entry, const Meta& meta) {
    const int64_t size = archive_entry_size_is_set(entry) ? archive_entry_size(entry) : 0;
    if (size < 0) return absl::InvalidArgumentError("size is negative");
    if (static_cast<uint64_t>(size) > options_.max_bytes) {
      return absl::ResourceExhaustedError(Cat("is larger than the limit of ", options_.max_bytes, " bytes"));
    }
    Fd fd(openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd.valid()) return ErrnoStatus(errno, "create file");
    for (;;) {
      const void* data = nullptr;
      size_t count = 0;
      la_int64_t offset = 0;
      const int rc = archive_read_data_block(tar, &data, &count, &offset);
      if (rc == ARCHIVE_EOF) break;
      if (rc < ARCHIVE_WARN) return absl::InvalidArgumentError(ArchiveError(tar));
      if (offset < 0 || offset > size || count > static_cast<uint64_t>(size - offset)) {
        return absl::InvalidArgumentError("has more data than its size says");
      }
      for (size_t done = 0; done < count;) {
        const ssize_t n = pwrite(fd.get(), static_cast<const char*>(data) + done, count - done,
                                 offset + static_cast<off_t>(done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return ErrnoStatus(errno, "write file");
        done += static_cast<size_t>(n);
      }
    }
    if (ftruncate(fd.get(), size) < 0) return ErrnoStatus(errno, "set file size");
    return SetMeta(fd.get(), entry, meta);
  }

  absl::Status Directory(int dir, const Path& path, archive_entry* entry, const Meta& meta) {
    const char* name = path.name.c_str();
    bool hides = false;
    if (mkdirat(dir, name, 0700) < 0) {
      struct stat st;
      if (errno != EEXIST) return ErrnoStatus(errno, "make directory");
      if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) return ErrnoStatus(errno, "stat");
      if (!S_ISDIR(st.st_mode)) {
        hides = IsWhiteout(st);
        RETURN_IF_ERROR(Clear(dir, path.name));
        if (mkdirat(dir, name, 0700) < 0) return ErrnoStatus(errno, "make directory");
      }
    }
    Fd fd(openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(errno, "open directory");
    if (hides) RETURN_IF_ERROR(SetOpaque(fd.get()));
    return SetDirectory(fd.get(), path, entry, meta);
  }

  absl::Status SetDirectory(int fd, const Path& path, archive_entry* entry, const Meta& meta) {
    directories_.emplace_back(path.whole(), meta);
    implied_.erase(path.whole());
    return SetMeta(fd, entry, meta);
  }

  // chown(2) clears setuid bits and security.capability: they come after it.
  absl::Status SetMeta(int fd, archive_entry* entry, const Meta& meta) {
    if (fchown(fd, meta.uid, meta.gid) < 0) return ErrnoStatus(errno, "change owner");
    if (fchmod(fd, meta.mode) < 0) return ErrnoStatus(errno, "change mode");
    RETURN_IF_ERROR(SetXattrs(entry, [&](const char* name, const void* value, size_t size) {
      return fsetxattr(fd, name, value, size, 0);
    }));
    if (futimens(fd, meta.times) < 0) return ErrnoStatus(errno, "set times");
    return absl::OkStatus();
  }

  absl::Status SetMeta(int dir, const std::string& name, archive_entry* entry, const Meta& meta, bool link) {
    if (fchownat(dir, name.c_str(), meta.uid, meta.gid, AT_SYMLINK_NOFOLLOW) < 0) {
      return ErrnoStatus(errno, "change owner");
    }
    if (!link && fchmodat(dir, name.c_str(), meta.mode, 0) < 0) return ErrnoStatus(errno, "change mode");
    // There is no lsetxattrat(2) yet, and no /proc here.
    if (fchdir(dir) < 0) return ErrnoStatus(errno, "change directory");
    RETURN_IF_ERROR(SetXattrs(entry, [&](const char* attribute, const void* value, size_t size) {
      return lsetxattr(name.c_str(), attribute, value, size, 0);
    }));
    if (utimensat(dir, name.c_str(), meta.times, AT_SYMLINK_NOFOLLOW) < 0)
      return ErrnoStatus(errno, "set times");
    return absl::OkStatus();
  }

  template <typename Set>
  absl::Status SetXattrs(archive_entry* entry, Set set) {
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      if (!name || !WantedXattr(name) || set(name, value, size) == 0) continue;
      // user.* is not for symlinks and device nodes (xattr(7)), and not every file system has them.
      if (errno == ENOTSUP || (errno == EPERM && std::string_view(name).starts_with("user."))) continue;
      const int err = errno;
      const absl::Status status = ErrnoStatus(err, Cat("set xattr `", name, "`"));
      return err == EINVAL || err == ERANGE ? WithCode(status, absl::StatusCode::kInvalidArgument) : status;
    }
    return absl::OkStatus();
  }

  const int root_;
  const UnpackOptions& options_;
  std::vector<std::pair<std::string, Meta>> directories_;
  std::set<std::string> implied_;
  size_t implied_bytes_ = 0, entries_ = 0;
};

}  // namespace

absl::StatusOr<Unpacked> UnpackTar(int fd, int root, const UnpackOptions& options) {
  // In the C locale libarchive gives names as the tar's bytes; in another it may normalise them.
  locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr);
  locale_t before = uselocale(plain);
  absl::Cleanup restore = [&] {
    uselocale(before);
    freelocale(plain);
  };

  auto inflater = std::make_unique<Inflater>(fd, options);
  RETURN_IF_ERROR(inflater->status());
  ArchivePtr tar(archive_read_new());
  archive_read_support_format_tar(tar.get());
  archive_read_support_format_empty(tar.get());
  Unpacker unpacker(root, options);
  int rc = archive_read_open(tar.get(), inflater.get(), nullptr, ReadInflated, nullptr);
  while (rc >= ARCHIVE_WARN) {
    archive_entry* entry = nullptr;
    rc = archive_read_next_header(tar.get(), &entry);
    if (rc == ARCHIVE_EOF || rc < ARCHIVE_WARN) break;
    const absl::Status status = unpacker.Entry(tar.get(), entry);
    RETURN_IF_ERROR(inflater->status());
    RETURN_IF_ERROR(status);
  }
  RETURN_IF_ERROR(inflater->status());
  if (rc != ARCHIVE_EOF) return absl::InvalidArgumentError(Cat("read tar: ", ArchiveError(tar.get())));
  const void* rest = nullptr;  // what stands behind the end of the archive counts in its digest
  while (inflater->Next(&rest) > 0) {
  }
  RETURN_IF_ERROR(inflater->status());
  RETURN_IF_ERROR(unpacker.Finish());
  Unpacked out{inflater->Digest(), unpacker.TakeImplied()};
  if (!options.diff_id.empty() && out.diff_id != options.diff_id) {
    return absl::DataLossError(Cat("the layer's digest is `", out.diff_id, "`, not `", options.diff_id, "`"));
  }
  return out;
}

}  // namespace sock::oci
