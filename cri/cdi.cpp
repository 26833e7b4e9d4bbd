#include "cri/cdi.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::cri {
namespace {

using nlohmann::json;

constexpr char kField[] = "CDI_devices";
constexpr size_t kMaxFileBytes = 4 << 20;

absl::Status Malformed(const std::string& what) {
  return absl::FailedPreconditionError(Cat(kField, ": ", what));
}

// What `name` is in `object`: absent, or of the type that its reader takes.
std::string Text(const json& object, const char* name) {
  auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}
template <typename Number>
std::optional<Number> Whole(const json& object, const char* name) {
  auto found = object.find(name);
  if (found == object.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<Number>();
}
const json& List(const json& object, const char* name) {
  static const json none = json::array();
  auto found = object.find(name);
  return found != object.end() && found->is_array() ? *found : none;
}

absl::Status AddNode(const json& node, oci::Spec* spec) {
  oci::Device device;
  device.path = Text(node, "path");
  device.host_path = Text(node, "hostPath");
  if (device.host_path.empty()) device.host_path = device.path;
  if (!device.path.starts_with('/') || !device.host_path.starts_with('/'))
    return Malformed("deviceNodes[].path is not absolute");
  struct stat st;
  if (stat(device.host_path.c_str(), &st) < 0)
    return WithCode(ErrnoStatus(errno, Cat(kField, ": device `", device.host_path, "`")),
                    absl::StatusCode::kNotFound);
  if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode))
    return Malformed(Cat("`", device.host_path, "` is not a device"));
  device.type = S_ISBLK(st.st_mode) ? 'b' : 'c';
  device.major = major(st.st_rdev);
  device.minor = minor(st.st_rdev);
  device.file_mode = Whole<mode_t>(node, "fileMode").value_or(st.st_mode) & 0777;
  device.uid = Whole<uint32_t>(node, "uid").value_or(st.st_uid);
  device.gid = Whole<uint32_t>(node, "gid").value_or(st.st_gid);
  std::string access = Text(node, "permissions");
  if (access.empty()) access = "rwm";
  if (access.find_first_not_of("rwm") != std::string::npos)
    return Malformed(Cat("permissions `", access, "` are not of r, w and m"));
  spec->resources.devices.push_back({true, device.type, device.major, device.minor, access});
  std::erase_if(spec->devices, [&](const oci::Device& known) { return known.path == device.path; });
  spec->devices.push_back(std::move(device));
  return absl::OkStatus();
}

absl::Status AddMount(const json& in, oci::Spec* spec) {
  oci::Mount mount;
  mount.type = "bind";
  mount.source = Text(in, "hostPath");
  mount.destination = Text(in, "containerPath");
  if (!mount.source.starts_with('/') || !mount.destination.starts_with('/'))
    return Malformed("mounts[]: hostPath or containerPath is not absolute");
  if (std::string type = Text(in, "type"); !type.empty() && type != "bind" && type != "none")
    return absl::UnimplementedError(Cat(kField, ": a mount of type `", type, "`"));
  mount.options = {"rbind", "rprivate"};
  for (const json& option : List(in, "options"))
    if (option.is_string()) mount.options.push_back(option.get<std::string>());
  spec->mounts.push_back(std::move(mount));
  return absl::OkStatus();
}

absl::Status Apply(const json& edits, oci::Spec* spec) {
  if (edits.is_null()) return absl::OkStatus();
  if (!edits.is_object()) return Malformed("containerEdits is not an object");
  static const std::set<std::string> known = {"env", "deviceNodes", "mounts"};
  for (const auto& [name, value] : edits.items())
    if (!known.contains(name) && !value.empty())
      return absl::UnimplementedError(Cat(kField, ": containerEdits.", name, " is not supported"));
  for (const json& one : List(edits, "env")) {
    const std::string entry = one.is_string() ? one.get<std::string>() : "";
    const size_t equals = entry.find('=');
    if (equals == std::string::npos || equals == 0 || entry.find('\0') != std::string::npos)
      return Malformed("an entry of env is not NAME=value");
    std::erase_if(spec->process.env,
                  [&](const std::string& old) { return old.starts_with(entry.substr(0, equals + 1)); });
    spec->process.env.push_back(entry);
  }
  for (const json& node : List(edits, "deviceNodes")) RETURN_IF_ERROR(AddNode(node, spec));
  for (const json& mount : List(edits, "mounts")) RETURN_IF_ERROR(AddMount(mount, spec));
  return absl::OkStatus();
}

struct Described {
  std::string file;
  json spec, device;
  bool twice = false;
};

// The files of one directory, into `devices`; those that can't be used are named in `unread`.
void ReadDir(const std::string& dir, std::map<std::string, Described>& devices, std::string& unread) {
  std::error_code error;
  std::map<std::string, Described> here;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string file = it->path().string(), extension = it->path().extension().string();
    if (extension != ".json" && extension != ".yaml" && extension != ".yml") continue;
    absl::StatusOr<std::string> text = ReadFile(file, kMaxFileBytes);
    json spec = extension == ".json" && text.ok() ? json::parse(*text, nullptr, false) : json();
    if (!spec.is_object() || Text(spec, "cdiVersion").empty()) {
      unread += Cat(unread.empty() ? "; not read: " : ", ", file);
      continue;
    }
    for (const json& device : List(spec, "devices")) {
      const std::string name = Cat(Text(spec, "kind"), "=", Text(device, "name"));
      auto [at, fresh] = here.try_emplace(name, Described{file, spec, device});
      if (!fresh) at->second.twice = true;
    }
  }
  for (auto& [name, described] : here) devices[name] = std::move(described);
}

}  // namespace

absl::Status AddCdiDevices(const std::vector<std::string>& names, const std::vector<std::string>& dirs,
                           oci::Spec* spec) {
  if (names.empty()) return absl::OkStatus();
  std::map<std::string, Described> devices;
  std::string unread;
  for (const std::string& dir : dirs) ReadDir(dir, devices, unread);
  std::set<std::string> done;
  for (const std::string& name : names) {
    const size_t slash = name.find('/'), equals = name.find('=');
    if (slash == std::string::npos || equals == std::string::npos || slash == 0 || slash > equals ||
        equals + 1 == name.size())
      return absl::InvalidArgumentError(Cat(kField, ": `", name, "` is not vendor/class=device"));
    auto found = devices.find(name);
    if (found == devices.end())
      return absl::NotFoundError(Cat(kField, ": no file describes `", name, "`", unread));
    const Described& described = found->second;
    if (described.twice)
      return Malformed(Cat("`", name, "` is described more than once beside `", described.file, "`"));
    // Edits that a file makes for all its devices are made once.
    if (done.insert(described.file).second)
      RETURN_IF_ERROR_AS(Apply(described.spec.value("containerEdits", json()), spec), described.file);
    if (done.insert(name).second)
      RETURN_IF_ERROR_AS(Apply(described.device.value("containerEdits", json()), spec), described.file);
  }
  return absl::OkStatus();
}

}  // namespace sock::cri
