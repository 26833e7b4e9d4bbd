// What must be asked of a text before toml++ 3.3 may parse it.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "runtime/base/text.h"

namespace sock {

// Two faults of the parser end the process in a debug build and are undefined in a release: a table's header
// that does not begin with a key (`[=]`), and a letter outside ASCII where it looks for white space. Neither
// is TOML, but for such a letter right after a line's continuation in a """ string, which is refused too.
// INVALID_ARGUMENT names the line. What follows the first error of syntax does not matter: the parser stops
// there.
inline absl::Status CheckToml(std::string_view text) {
  constexpr std::string_view kBlank = " \t", kSpace = " \t\r\n";
  constexpr std::string_view kBegins = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-\"']";
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  auto at = [&](size_t i) { return i < text.size() ? text[i] : '\0'; };
  auto past = [&](size_t i, std::string_view set) {
    while (i < text.size() && set.find(text[i]) != std::string_view::npos) ++i;
    return i;
  };
  auto bad = [&](size_t i, std::string_view what) {
    int line = 1;
    for (char c : text.substr(0, i)) line += c == '\n';
    return absl::InvalidArgumentError(Cat("line ", line, ": ", what));
  };
  constexpr std::string_view kLetter = "a letter outside ASCII must stand in a string";
  std::string_view quotes;  // of the string that this is in
  int depth = 0;            // of arrays
  bool fresh = true;        // nothing but blanks on this line yet
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (!quotes.empty()) {
      if (c == '\\' && quotes[0] == '"') {
        const size_t next = past(i + 1, kSpace);
        if (at(next) & 0x80) return bad(next, kLetter);
        i = next > i + 1 ? next - 1 : i + 1;
      } else if (text.substr(i).starts_with(quotes)) {
        i += quotes.size() - 1;
        while (quotes.size() == 3 && at(i + 1) == c)
          ++i;  // up to two quotes may stand before the closing ones
        quotes = {};
      } else if (c == '\n' && quotes.size() == 1) {
        quotes = {};  // an error of syntax
      }
      continue;
    }
    if (c & 0x80) return bad(i, kLetter);
    if (c == '\n') {
      fresh = true;
      continue;
    }
    if (c == '#') {
      while (i + 1 < text.size() && text[i + 1] != '\n') ++i;
    } else if (c == '"' || c == '\'') {
      if (i > 0 && std::string_view(" \t\r\n=,[{.").find(text[i - 1]) == std::string_view::npos)
        return bad(i, "a string must not begin inside a word");
      const bool three = at(i + 1) == c && at(i + 2) == c;
      quotes = text.substr(i, three ? 3 : 1);
      i += quotes.size() - 1;
    } else if (c == '[' && fresh && depth == 0) {
      i = past(i + (at(i + 1) == '[' ? 2 : 1), kBlank);
      if (kBegins.find(at(i)) == std::string_view::npos)
        return bad(i, "a table's header must begin with a key");
      --i;
      depth = 1;  // ended by its bracket, as an array is
    } else if (c == '[') {
      ++depth;
    } else if (c == ']' && depth > 0) {
      --depth;
    }
    if (kBlank.find(c) == std::string_view::npos) fresh = false;
  }
  return absl::OkStatus();
}

}  // namespace sock
