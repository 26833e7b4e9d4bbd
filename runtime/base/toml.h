// What must be asked of a text before toml++ 3.3 may parse it.
#pragma once

#include <algorithm>
#include <string_view>

#include "absl/status/status.h"
#include "runtime/base/text.h"

namespace sock {

// The parser takes for granted that a table's header begins with a key: `[=]` ends the process in a debug
// build and is undefined in a release. INVALID_ARGUMENT names the line. (A line of a multi-line string or
// array that looks like such a header is refused too.)
inline absl::Status CheckTomlHeaders(std::string_view text) {
  constexpr std::string_view kSpace = " \t";
  constexpr std::string_view kBegins = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-\"']";
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  int number = 1;
  for (size_t at = 0; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    line.remove_prefix(std::min(line.find_first_not_of(kSpace), line.size()));
    if (!line.starts_with('[')) continue;
    line.remove_prefix(line.starts_with("[[") ? 2 : 1);
    line.remove_prefix(std::min(line.find_first_not_of(kSpace), line.size()));
    if (line.empty() || kBegins.find(line[0]) == std::string_view::npos) {
      return absl::InvalidArgumentError(Cat("line ", number, ": a table's header does not begin with a key"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sock
