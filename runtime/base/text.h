// Text out of values. Debian's absl::string_view is not std::string_view, so absl::StrCat does not take ours:
// Cat does.
#pragma once

#include <fmt/format.h>

#include <iterator>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/string_view.h"

template <>
struct fmt::formatter<absl::string_view> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(absl::string_view text, Context& context) const {
    return fmt::formatter<std::string_view>::format({text.data(), text.size()}, context);
  }
};

namespace sock {

// A value at the text's end, as fmt's "{}" shows it; text itself without fmt's reading of "{}".
template <typename Value>
void Append(std::string& text, const Value& value) {
  if constexpr (std::is_same_v<Value, absl::string_view>) {
    text.append(value.data(), value.size());
  } else if constexpr (std::is_convertible_v<const Value&, std::string_view>) {
    text.append(std::string_view(value));
  } else if constexpr (std::is_same_v<Value, char>) {
    text.push_back(value);
  } else {
    fmt::format_to(std::back_inserter(text), "{}", value);
  }
}

// The values one after another, each as fmt's "{}" shows it.
template <typename... Values>
std::string Cat(const Values&... values) {
  std::string text;
  (Append(text, values), ...);
  return text;
}

}  // namespace sock
