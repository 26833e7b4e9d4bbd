#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "cri/convert_parts.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::cri {
namespace {

void DefaultMounts(bool privileged, const ConvertContext& context, std::vector<oci::Mount>* out) {
  const std::string access = privileged ? "rw" : "ro";
  *out = {
      {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
      {"/dev/pts",
       "devpts",
       "devpts",
       {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
      {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", access}},
      {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", access}},
  };
  if (context.shm_dir.empty()) {
    out->push_back({"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}});
  } else {
    out->push_back({"/dev/shm", "bind", context.shm_dir, {"rbind", "rprivate", "nosuid", "noexec", "nodev"}});
  }
}

// What the kernel tells a process of itself must not be forged: /proc takes another procfs and, of what lies
// below, files that hold figures for programs (lxcfs fills them in), as with runc.
absl::Status CheckBelowProc(const api::Mount& in, const std::string& destination, const std::string& field) {
  static const std::set<std::string> figures = {"/proc/cpuinfo",
                                                "/proc/diskstats",
                                                "/proc/loadavg",
                                                "/proc/meminfo",
                                                "/proc/slabinfo",
                                                "/proc/stat",
                                                "/proc/swaps",
                                                "/proc/uptime",
                                                "/proc/sys/crypto/fips_enabled",
                                                "/proc/sys/kernel/ns_last_pid"};
  if (destination != "/proc" && !destination.starts_with("/proc/")) return absl::OkStatus();
  if (figures.contains(destination)) return absl::OkStatus();
  if (destination != "/proc")
    return Invalid(field + ".container_path", Cat("`", in.container_path(), "` lies below /proc"));
  const std::string other = "is /proc, but the volume is no procfs";
  if (!in.image().image().empty()) return Invalid(field + ".container_path", other);
  ASSIGN_OR_RETURN_AS(Fd source, OpenPath(in.host_path(), O_PATH), field + ".host_path");
  struct statfs fs;
  if (fstatfs(source.get(), &fs) < 0) return ErrnoStatus(errno, Cat("stat `", in.host_path(), "`"));
  if (fs.f_type != PROC_SUPER_MAGIC) return Invalid(field + ".container_path", other);
  return absl::OkStatus();
}

absl::StatusOr<oci::Mount> ToMount(const api::Mount& in, const std::string& field) {
  const std::string& image = in.image().image();
  RETURN_IF_ERROR(CheckPath(in.container_path(), field + ".container_path"));
  if (image.empty()) {
    RETURN_IF_ERROR(CheckPath(in.host_path(), field + ".host_path"));
    if (!in.image_sub_path().empty()) return Invalid(field + ".image_sub_path", "is set without an image");
  } else {
    if (!in.host_path().empty()) return Invalid(field + ".host_path", "and image are both set");
    if (in.propagation() == api::PROPAGATION_BIDIRECTIONAL)
      return Invalid(field + ".propagation", "is BIDIRECTIONAL, but image is set");
    if (!in.readonly()) return Invalid(field + ".readonly", "is not set, but an image's volume is read-only");
    if (in.image_sub_path().find('\0') != std::string::npos)
      return Invalid(field + ".image_sub_path", "contains a zero byte");
  }
  oci::Mount out{Clean(in.container_path()), "bind", in.host_path(), {"rbind"}, {}, {}};
  if (in.uidmappings_size() || in.gidmappings_size()) {
    ASSIGN_OR_RETURN(out.uid_mappings, ReadMappings(in.uidmappings(), field + ".uidMappings"));
    ASSIGN_OR_RETURN(out.gid_mappings, ReadMappings(in.gidmappings(), field + ".gidMappings"));
  }
  if (out.destination == "/") return Invalid(field + ".container_path", "is the root");
  RETURN_IF_ERROR(CheckBelowProc(in, out.destination, field));
  switch (in.propagation()) {
    case api::PROPAGATION_PRIVATE:
      out.options.push_back("rprivate");
      break;
    case api::PROPAGATION_HOST_TO_CONTAINER:
      out.options.push_back("rslave");
      break;
    case api::PROPAGATION_BIDIRECTIONAL:
      out.options.push_back("rshared");
      break;
    default:
      return Invalid(field + ".propagation", Cat(static_cast<int>(in.propagation()), " is unknown"));
  }
  if (in.recursive_read_only()) {
    if (!in.readonly()) return Invalid(field + ".recursive_read_only", "is set without readonly");
    if (in.propagation() != api::PROPAGATION_PRIVATE)
      return Invalid(field + ".recursive_read_only", "is set with a propagation other than private");
    out.options.push_back("rro");
  } else if (in.readonly()) {  // never "rw": it would lift the read-only flag of the host's own mount
    out.options.push_back("ro");
  }
  if (!image.empty()) {  // always read-only; its layers are filled in where images are known
    out.type = "overlay";
    out.source = image;
    out.options = {"ro"};
    if (!in.image_sub_path().empty()) out.options.push_back("subpath=" + in.image_sub_path());
  }
  for (const std::string& option : in.mount_options()) {
    if (option != "noexec" && option != "nodev" && option != "nosuid")
      return Invalid(field + ".mount_options", Cat("`", option, "` is not noexec, nodev or nosuid"));
    out.options.push_back(option);
  }
  return out;
}

absl::StatusOr<oci::Device> ReadDevice(const std::string& host_path) {
  struct stat st;
  if (stat(host_path.c_str(), &st) < 0) {
    absl::Status status = ErrnoStatus(errno, Cat("stat device `", host_path, "`"));
    return errno == ENOENT || errno == ENOTDIR ? WithCode(status, absl::StatusCode::kNotFound) : status;
  }
  oci::Device device;
  if (S_ISCHR(st.st_mode)) {
    device.type = 'c';
  } else if (S_ISBLK(st.st_mode)) {
    device.type = 'b';
  } else {
    return absl::InvalidArgumentError(Cat("`", host_path, "` is not a device"));
  }
  device.path = device.host_path = host_path;
  device.major = major(st.st_rdev);
  device.minor = minor(st.st_rdev);
  device.file_mode = st.st_mode & 0777;
  device.uid = st.st_uid;
  device.gid = st.st_gid;
  return device;
}

// Device nodes that /dev gets from us or that belong to the host's terminals and mounts.
bool OwnDevice(const std::string& path) {
  static const std::set<std::string> own = {"/dev/console", "/dev/null",    "/dev/zero", "/dev/full",
                                            "/dev/random",  "/dev/urandom", "/dev/tty",  "/dev/ptmx"};
  return own.contains(path) || path.starts_with("/dev/pts/") || path.starts_with("/dev/shm/") ||
         path.starts_with("/dev/mqueue/");
}

void AllHostDevices(oci::Spec* spec) {
  std::error_code error;
  using Walk = std::filesystem::recursive_directory_iterator;
  for (Walk it("/dev", std::filesystem::directory_options::skip_permission_denied, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code ignored;
    const auto type = it->symlink_status(ignored).type();
    if (type != std::filesystem::file_type::character && type != std::filesystem::file_type::block) continue;
    const std::string path = it->path().string();
    if (OwnDevice(path)) continue;
    if (auto device = ReadDevice(path); device.ok()) spec->devices.push_back(*std::move(device));
  }
}

}  // namespace

absl::Status SetMounts(const api::ContainerConfig& config, const ConvertContext& context, oci::Spec* spec) {
  std::vector<oci::Mount> asked;
  std::set<std::string> destinations;
  for (int i = 0; i < config.mounts_size(); ++i) {
    ASSIGN_OR_RETURN(oci::Mount mount, ToMount(config.mounts(i), Cat("mounts[", i, "]")));
    destinations.insert(mount.destination);
    asked.push_back(std::move(mount));
  }
  std::vector<oci::Mount> made;
  DefaultMounts(config.linux().security_context().privileged(), context, &made);
  std::vector<std::string> options = {"rbind", "rprivate"};
  if (spec->root_readonly) options.push_back("ro");
  for (auto& [path, source] :
       {std::pair<const char*, const std::string&>{"/etc/resolv.conf", context.resolv_conf},
        {"/etc/hosts", context.hosts},
        {"/etc/hostname", context.hostname_file}})
    if (!source.empty()) made.push_back({path, "bind", source, options});
  for (oci::Mount& mount : made)
    if (!destinations.contains(mount.destination)) spec->mounts.push_back(std::move(mount));
  // A parent before what lies in it, else in the order given.
  std::stable_sort(asked.begin(), asked.end(), [](const oci::Mount& a, const oci::Mount& b) {
    return std::count(a.destination.begin(), a.destination.end(), '/') <
           std::count(b.destination.begin(), b.destination.end(), '/');
  });
  for (oci::Mount& mount : asked) spec->mounts.push_back(std::move(mount));
  return absl::OkStatus();
}

absl::Status SetDevices(const api::ContainerConfig& config, oci::Spec* spec) {
  auto& rules = spec->resources.devices;
  if (config.linux().security_context().privileged()) {
    rules = {{true, 'a', {}, {}, "rwm"}};
    AllHostDevices(spec);
  } else {
    // Nothing, then: making nodes; null, zero, full, tty, console, ptmx, random, urandom; pseudo terminals.
    rules = {{false, 'a', {}, {}, "rwm"}, {true, 'c', {}, {}, "m"}, {true, 'b', {}, {}, "m"},
             {true, 'c', 1, 3, "rwm"},    {true, 'c', 1, 5, "rwm"}, {true, 'c', 1, 7, "rwm"},
             {true, 'c', 5, 0, "rwm"},    {true, 'c', 5, 1, "rwm"}, {true, 'c', 5, 2, "rwm"},
             {true, 'c', 1, 8, "rwm"},    {true, 'c', 1, 9, "rwm"}, {true, 'c', 136, {}, "rwm"}};
  }
  for (int i = 0; i < config.devices_size(); ++i) {
    const api::Device& in = config.devices(i);
    const std::string field = Cat("devices[", i, "]");
    RETURN_IF_ERROR(CheckPath(in.host_path(), field + ".host_path"));
    const std::string path = Clean(in.container_path().empty() ? in.host_path() : in.container_path());
    RETURN_IF_ERROR(CheckPath(path, field + ".container_path"));
    const std::string access = in.permissions().empty() ? "rwm" : in.permissions();
    if (access.find_first_not_of("rwm") != std::string::npos || access.size() > 3)
      return Invalid(field + ".permissions", Cat("`", access, "` is not of r, w and m"));
    ASSIGN_OR_RETURN_AS(oci::Device device, ReadDevice(in.host_path()), field + ".host_path");
    device.path = path;
    rules.push_back({true, device.type, device.major, device.minor, access});
    std::erase_if(spec->devices, [&](const oci::Device& known) { return known.path == path; });
    spec->devices.push_back(std::move(device));
  }
  return absl::OkStatus();
}

}  // namespace sock::cri
