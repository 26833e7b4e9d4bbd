// The text of the Zygote's protocol (zygote/protocol.md): a list of fields, each `name NUL value NUL`, the
// first of them `op`. It names no language, so that any helper can speak it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace sock {

inline constexpr size_t kMaxFieldsBytes = 150'000;  // one packet

class Fields {
 public:
  explicit Fields(std::string_view op) { Add("op", op); }
  // Reads a packet. INVALID_ARGUMENT with the reason for what is no list of fields, whose first is not `op`,
  // or which is larger than kMaxFieldsBytes.
  static absl::StatusOr<Fields> Parse(std::string_view packet);

  Fields& Add(std::string_view name, std::string_view value);
  Fields& Add(std::string_view name, uint64_t value);
  // A field for each value, in their order.
  Fields& AddAll(std::string_view name, const std::vector<std::string>& values);

  // The packet. INVALID_ARGUMENT naming the field for an empty name or a NUL byte; RESOURCE_EXHAUSTED where
  // it is larger than kMaxFieldsBytes.
  absl::StatusOr<std::string> Serialize() const;

  const std::string& op() const { return list_[0].second; }
  // The field of this name; INVALID_ARGUMENT naming it where it is absent or repeats.
  absl::StatusOr<std::string> Get(std::string_view name) const;
  // Nothing where it is absent; INVALID_ARGUMENT where it repeats.
  absl::StatusOr<std::optional<std::string>> GetOptional(std::string_view name) const;
  // As Get; INVALID_ARGUMENT also for what is not decimal digits below 2^64.
  absl::StatusOr<uint64_t> GetNumber(std::string_view name) const;
  // Every value of this name, in order.
  std::vector<std::string> GetAll(std::string_view name) const;
  // Every name and value, in order.
  const std::vector<std::pair<std::string, std::string>>& list() const { return list_; }

 private:
  Fields() = default;
  std::vector<std::pair<std::string, std::string>> list_;  // never empty outside of Parse
};

}  // namespace sock
