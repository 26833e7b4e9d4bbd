// What must be asked of a text before toml++ 3.3 may parse it.
#pragma once

#include <algorithm>
#include <string_view>

#include "absl/status/status.h"
#include "runtime/base/text.h"

namespace sock {

// Two faults of the parser end the process in a debug build and are undefined in a release: a table's header
// that does not begin with a key (`[=]`), and letters of U+FB26 to U+FEFE (presentation forms of Hebrew and
// Arabic) where it looks for white space. INVALID_ARGUMENT names the line. A line of a multi-line string or
// array that looks like such a header, and such a letter inside a string, are refused too.
inline absl::Status CheckToml(std::string_view text) {
  constexpr std::string_view kSpace = " \t";
  constexpr std::string_view kBegins = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-\"']";
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  int number = 1;
  for (size_t at = 0; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    for (size_t i = 0; i + 2 < line.size(); ++i) {
      if (line[i] != '\xef') continue;
      const unsigned letter = 0xf000 | (line[i + 1] & 0x3f) << 6 | (line[i + 2] & 0x3f);
      if (letter >= 0xfb26 && letter <= 0xfefe)
        return absl::InvalidArgumentError(Cat("line ", number, ": holds a presentation form"));
    }
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
