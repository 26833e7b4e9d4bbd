#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/internal.h"

namespace sock::runtime::cgroup {

absl::StatusOr<std::string> ExpandSlice(std::string_view slice) {
  absl::Status bad =
      absl::InvalidArgumentError(Cat("cgroup parent `", slice, "`: is not a systemd slice's name"));
  if (!slice.ends_with(".slice")) return bad;
  std::string_view name = slice.substr(0, slice.size() - 6);
  if (name == "-") return std::string();
  if (name.empty() || name.front() == '-' || name.back() == '-' || name.find('/') != name.npos ||
      name.find("--") != name.npos) {
    return bad;
  }
  std::string path;
  for (size_t dash = name.find('-'); dash != name.npos; dash = name.find('-', dash + 1)) {
    path += Cat(name.substr(0, dash), ".slice/");
  }
  return Cat(path, slice);
}

absl::StatusOr<std::string> Normalize(std::string_view path, bool systemd) {
  std::string text(path);
  if (systemd) {
    size_t first = text.find(':'), second = first == text.npos ? first : text.find(':', first + 1);
    if (second != text.npos) {
      std::string slice = text.substr(0, first), prefix = text.substr(first + 1, second - first - 1);
      ASSIGN_OR_RETURN(std::string parent, ExpandSlice(slice.empty() ? "system.slice" : slice));
      std::string unit = text.substr(second + 1);
      if (!unit.ends_with(".slice")) unit = prefix.empty() ? unit + ".scope" : prefix + "-" + unit + ".scope";
      text = parent.empty() ? unit : parent + "/" + unit;
    } else if (text.find('/', 1) == text.npos && text.ends_with(".slice")) {
      ASSIGN_OR_RETURN(text, ExpandSlice(text.starts_with('/') ? text.substr(1) : text));
      if (text.empty()) return absl::InvalidArgumentError("cgroup path: names the root cgroup");
    }
  }
  std::string clean;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find('/', at), text.size());
    std::string part = text.substr(at, end - at);
    at = end + 1;
    if (part.empty()) continue;  // a leading, trailing or doubled slash
    if (part == "." || part == ".." || part.size() > 255 || part.find_first_of({"\n\0", 2}) != part.npos) {
      return absl::InvalidArgumentError(Cat("cgroup path `", path, "`: has a bad component"));
    }
    clean += clean.empty() ? part : "/" + part;
  }
  if (clean.empty()) return absl::InvalidArgumentError("cgroup path: names the root cgroup");
  return clean;
}

std::string ContainerPath(std::string_view parent, std::string_view id, bool systemd) {
  while (parent.starts_with('/')) parent.remove_prefix(1);
  while (parent.ends_with('/')) parent.remove_suffix(1);
  if (!systemd) return parent.empty() ? Cat("cri-sock/", id) : Cat(parent, "/", id);
  if (parent.find('/') != parent.npos) return Cat(parent, "/cri-sock-", id, ".scope");
  std::string unit = Cat(parent, ":cri-sock:", id);
  // What can't be expanded is left as it is: Create names what is wrong with it.
  return Normalize(unit, true).value_or(unit);
}

}  // namespace sock::runtime::cgroup
