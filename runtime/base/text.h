// Text out of values. Debian's absl::string_view is not std::string_view, so absl::StrCat does not take ours:
// Cat does.
#pragma once

#include <fmt/format.h>

#include <iterator>
#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

template <>
struct fmt::formatter<absl::string_view> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(absl::string_view text, Context& context) const {
    return fmt::formatter<std::string_view>::format({text.data(), text.size()}, context);
  }
};

namespace sock {

// The values one after another, each as fmt's "{}" shows it.
template <typename... Values>
std::string Cat(const Values&... values) {
  std::string text;
  (fmt::format_to(std::back_inserter(text), "{}", values), ...);
  return text;
}

}  // namespace sock
