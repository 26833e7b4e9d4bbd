#include "runtime/base/fields.h"

#include <charconv>

#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock {
namespace {

// A stranger's name, fit for a message.
std::string Shown(std::string_view name) {
  std::string shown;
  for (char c : name.substr(0, 40)) shown += c >= ' ' && c < 0x7f ? c : '?';
  return shown;
}

}  // namespace

absl::StatusOr<Fields> Fields::Parse(std::string_view packet) {
  if (packet.size() > kMaxFieldsBytes)
    return absl::InvalidArgumentError(
        Cat("message of ", packet.size(), " bytes: at most ", kMaxFieldsBytes, " are allowed"));
  Fields fields;
  while (!packet.empty()) {
    size_t name_end = packet.find('\0');
    size_t value_end = name_end == packet.npos ? packet.npos : packet.find('\0', name_end + 1);
    if (value_end == packet.npos)
      return absl::InvalidArgumentError(
          Cat("message: field `", Shown(packet.substr(0, name_end)), "` is cut off"));
    if (name_end == 0) return absl::InvalidArgumentError("message: a field without a name");
    fields.Add(packet.substr(0, name_end), packet.substr(name_end + 1, value_end - name_end - 1));
    packet.remove_prefix(value_end + 1);
  }
  if (fields.list_.empty() || fields.list_[0].first != "op")
    return absl::InvalidArgumentError("message: the first field is not `op`");
  return fields;
}

Fields& Fields::Add(std::string_view name, std::string_view value) {
  list_.emplace_back(name, value);
  return *this;
}

Fields& Fields::Add(std::string_view name, uint64_t value) { return Add(name, std::to_string(value)); }

Fields& Fields::AddAll(std::string_view name, const std::vector<std::string>& values) {
  for (const std::string& value : values) Add(name, value);
  return *this;
}

absl::StatusOr<std::string> Fields::Serialize() const {
  std::string packet;
  for (const auto& [name, value] : list_) {
    if (name.empty()) return absl::InvalidArgumentError("message: a field without a name");
    if (name.find('\0') != name.npos || value.find('\0') != value.npos)
      return absl::InvalidArgumentError(Cat("message: field `", Shown(name), "` holds a NUL byte"));
    packet.append(name).push_back('\0');
    packet.append(value).push_back('\0');
  }
  if (packet.size() > kMaxFieldsBytes)
    return absl::ResourceExhaustedError(Cat("message `", Shown(op()), "` of ", packet.size(),
                                            " bytes: at most ", kMaxFieldsBytes, " are allowed"));
  return packet;
}

absl::StatusOr<std::optional<std::string>> Fields::GetOptional(std::string_view name) const {
  std::optional<std::string> found;
  for (const auto& [key, value] : list_) {
    if (key != name) continue;
    if (found)
      return absl::InvalidArgumentError(Cat("message `", Shown(op()), "`: field `", name, "` repeats"));
    found = value;
  }
  return found;
}

absl::StatusOr<std::string> Fields::Get(std::string_view name) const {
  ASSIGN_OR_RETURN(auto found, GetOptional(name));
  if (!found)
    return absl::InvalidArgumentError(Cat("message `", Shown(op()), "`: field `", name, "` is missing"));
  return *std::move(found);
}

absl::StatusOr<uint64_t> Fields::GetNumber(std::string_view name) const {
  ASSIGN_OR_RETURN(std::string text, Get(name));
  uint64_t number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size())
    return absl::InvalidArgumentError(
        Cat("message `", Shown(op()), "`: field `", name, "`: `", Shown(text), "` is no number"));
  return number;
}

std::vector<std::string> Fields::GetAll(std::string_view name) const {
  std::vector<std::string> values;
  for (const auto& [key, value] : list_)
    if (key == name) values.push_back(value);
  return values;
}

}  // namespace sock
