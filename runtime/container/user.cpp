#include "runtime/container/user.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

constexpr size_t kMaxFileBytes = 16 << 20;

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::optional<uint32_t> Number(std::string_view text) {
  uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  // (uid_t)-1 means "no change" to the kernel.
  if (error != std::errc() || end != text.data() + text.size() || value == UINT32_MAX) return std::nullopt;
  return value;
}

bool IsNumeric(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

absl::StatusOr<std::string> ReadInRoot(int root, const char* path) {
  absl::StatusOr<Fd> fd = OpenInRoot(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (absl::IsNotFound(fd.status())) return std::string();
  RETURN_IF_ERROR(fd.status());
  struct stat st;
  if (fstat(fd->get(), &st) < 0) return ErrnoStatus(errno, Cat("stat `", path, "`"));
  if (!S_ISREG(st.st_mode)) return std::string();
  std::string text;
  char buffer[4096];
  for (;;) {
    ssize_t n = read(fd->get(), buffer, sizeof buffer);
    if (n < 0) return ErrnoStatus(errno, Cat("read `", path, "`"));
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxFileBytes) return absl::ResourceExhaustedError(Cat("read `", path, "`: too large"));
  }
}

struct Entry {
  std::string name, home;
  uint32_t uid = 0, gid = 0;
};

// The first entry of passwd `text` with this name, or with this uid.
std::optional<Entry> FindUser(std::string_view text, std::string_view name, std::optional<uint32_t> uid) {
  for (std::string_view line : Split(text, '\n')) {
    std::vector<std::string_view> fields = Split(line, ':');
    if (fields.size() < 4) continue;
    std::optional<uint32_t> id = Number(fields[2]), group = Number(fields[3]);
    if (!id || !group || (uid ? *id != *uid : fields[0] != name)) continue;
    return Entry{std::string(fields[0]), fields.size() > 5 ? std::string(fields[5]) : "", *id, *group};
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<ResolvedUser> ResolveUser(int root, const UserRequest& request) {
  ASSIGN_OR_RETURN(std::string passwd, ReadInRoot(root, "/etc/passwd"));
  std::string_view username = request.username, group_name;
  if (size_t colon = username.find(':'); colon != std::string_view::npos) {
    group_name = username.substr(colon + 1);
    username = username.substr(0, colon);
  }
  std::optional<uint32_t> uid = request.uid;
  if (!uid && IsNumeric(username)) {
    uid = Number(username);
    if (!uid) return absl::InvalidArgumentError(Cat("user `", username, "`: not a user id"));
  } else if (!uid && username.empty()) {
    uid = 0;
  }
  if (uid == UINT32_MAX) return absl::InvalidArgumentError(Cat("user `", *uid, "`: not a user id"));
  std::optional<Entry> entry = FindUser(passwd, username, uid);
  if (!uid && !entry)
    return absl::InvalidArgumentError(Cat("user `", username, "`: not in the container's /etc/passwd"));

  ResolvedUser resolved;
  resolved.user.uid = uid ? *uid : entry->uid;
  if (entry && !entry->home.empty()) resolved.home = entry->home;

  bool merge = entry && !request.strict_groups;
  std::string groups;
  bool named_group = !request.gid && !group_name.empty() && !IsNumeric(group_name);
  if (merge || named_group) {
    ASSIGN_OR_RETURN(groups, ReadInRoot(root, "/etc/group"));
  }
  if (request.gid) {
    resolved.user.gid = *request.gid;
  } else if (group_name.empty()) {
    resolved.user.gid = entry ? entry->gid : 0;
  } else if (!named_group) {
    std::optional<uint32_t> gid = Number(group_name);
    if (!gid) return absl::InvalidArgumentError(Cat("group `", group_name, "`: not a group id"));
    resolved.user.gid = *gid;
  }
  if (resolved.user.gid == UINT32_MAX) return absl::InvalidArgumentError("group: not a group id");

  bool found = !named_group;
  std::vector<uint32_t> member_of;
  for (std::string_view line : Split(groups, '\n')) {
    std::vector<std::string_view> fields = Split(line, ':');
    std::optional<uint32_t> gid = fields.size() < 3 ? std::nullopt : Number(fields[2]);
    if (!gid) continue;
    if (!found && fields[0] == group_name) {
      resolved.user.gid = *gid;
      found = true;
    }
    if (!merge || fields.size() < 4) continue;
    std::vector<std::string_view> members = Split(fields[3], ',');
    if (std::find(members.begin(), members.end(), entry->name) != members.end()) member_of.push_back(*gid);
  }
  if (!found)
    return absl::InvalidArgumentError(Cat("group `", group_name, "`: not in the container's /etc/group"));

  std::vector<uint32_t>& all = resolved.user.additional_gids;
  auto add = [&all](uint32_t gid) {
    if (std::find(all.begin(), all.end(), gid) == all.end()) all.push_back(gid);
  };
  add(resolved.user.gid);
  for (uint32_t gid : request.supplemental_groups) add(gid);
  for (uint32_t gid : member_of) add(gid);
  return resolved;
}

}  // namespace sock::runtime
