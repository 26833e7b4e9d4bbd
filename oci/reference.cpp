#include "oci/reference.h"

#include <string_view>

#include "oci/image_store.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

constexpr size_t kMaxName = 255, kMaxTag = 128;

bool Lower(char c) { return c >= 'a' && c <= 'z'; }
bool Digit(char c) { return c >= '0' && c <= '9'; }
bool Alnum(char c) { return Lower(c) || Digit(c) || (c >= 'A' && c <= 'Z'); }

// [a-z0-9]+ runs with one of ".", "_", "__" or any number of "-" between them.
bool IsPathComponent(std::string_view text) {
  size_t i = 0;
  while (true) {
    size_t run = i;
    while (i < text.size() && (Lower(text[i]) || Digit(text[i]))) ++i;
    if (i == run) return false;
    if (i == text.size()) return true;
    if (text[i] == '.') {
      ++i;
    } else if (text[i] == '_') {
      ++i;
      if (i < text.size() && text[i] == '_') ++i;
    } else if (text[i] == '-') {
      while (i < text.size() && text[i] == '-') ++i;
    } else {
      return false;
    }
  }
}

bool IsDnsName(std::string_view text) {
  while (true) {
    size_t dot = text.find('.');
    std::string_view label = text.substr(0, dot);
    if (label.empty() || !Alnum(label.front()) || !Alnum(label.back())) return false;
    for (char c : label) {
      if (!Alnum(c) && c != '-') return false;
    }
    if (dot == std::string_view::npos) return true;
    text.remove_prefix(dot + 1);
  }
}

bool IsIpv6(std::string_view text) {
  if (text.size() < 2) return false;
  for (char c : text) {
    if (!Digit(c) && !(c >= 'a' && c <= 'f') && !(c >= 'A' && c <= 'F') && c != ':') return false;
  }
  return text.find(':') != std::string_view::npos;
}

absl::Status Bad(const std::string& text, std::string_view reason) {
  return absl::InvalidArgumentError(Cat("image reference `", text, "`: ", reason));
}

}  // namespace

bool IsDigest(std::string_view text) {
  constexpr std::string_view kPrefix = "sha256:";
  if (!text.starts_with(kPrefix) || text.size() != kPrefix.size() + 64) return false;
  for (char c : text.substr(kPrefix.size())) {
    if (!Digit(c) && !(c >= 'a' && c <= 'f')) return false;
  }
  return true;
}

bool IsTag(std::string_view text) {
  if (text.empty() || text.size() > kMaxTag || !(Alnum(text[0]) || text[0] == '_')) return false;
  for (char c : text) {
    if (!Alnum(c) && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

bool IsRepository(std::string_view text) {
  if (text.size() > kMaxName) return false;
  while (true) {
    size_t slash = text.find('/');
    if (!IsPathComponent(text.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    text.remove_prefix(slash + 1);
  }
}

bool IsHost(std::string_view text) {
  if (text.empty()) return false;
  std::string_view port;
  bool has_port = false;
  if (text[0] == '[') {
    size_t end = text.find(']');
    if (end == std::string_view::npos || !IsIpv6(text.substr(1, end - 1))) return false;
    std::string_view rest = text.substr(end + 1);
    if (!rest.empty() && rest[0] != ':') return false;
    has_port = !rest.empty();
    if (has_port) port = rest.substr(1);
  } else {
    size_t colon = text.find(':');
    has_port = colon != std::string_view::npos;
    if (has_port) port = text.substr(colon + 1);
    if (!IsDnsName(text.substr(0, colon))) return false;
  }
  if (!has_port) return true;
  if (port.empty() || port.size() > 5) return false;
  int number = 0;
  for (char c : port) {
    if (!Digit(c)) return false;
    number = number * 10 + (c - '0');
  }
  return number >= 1 && number <= 65535;
}

std::string Reference::Name() const { return host + "/" + repository; }

std::string Reference::String() const {
  std::string text = Name();
  if (!tag.empty()) text += ":" + tag;
  if (!digest.empty()) text += "@" + digest;
  return text;
}

absl::StatusOr<Reference> ParseReference(const std::string& text) {
  if (text.empty()) return Bad(text, "is empty");
  if (text.size() > 1024) return Bad(text.substr(0, 64) + "…", "is too long");
  Reference out;
  std::string_view rest = text;
  if (size_t at = rest.find('@'); at != std::string_view::npos) {
    out.digest = std::string(rest.substr(at + 1));
    if (!IsDigest(out.digest)) return Bad(text, "the digest is not sha256 with 64 lower case hex digits");
    rest = rest.substr(0, at);
  }
  size_t slash = rest.rfind('/');
  size_t colon = rest.find(':', slash == std::string_view::npos ? 0 : slash);
  if (colon != std::string_view::npos) {
    out.tag = std::string(rest.substr(colon + 1));
    if (!IsTag(out.tag)) return Bad(text, "the tag is not 1 to 128 letters, digits, `_`, `.` or `-`");
    rest = rest.substr(0, colon);
  }
  size_t first = rest.find('/');
  if (first != std::string_view::npos) {
    std::string_view head = rest.substr(0, first);
    bool upper = false;
    for (char c : head) upper |= c >= 'A' && c <= 'Z';
    if (head == "localhost" || upper || head.find_first_of(".:[") != std::string_view::npos) {
      if (!IsHost(head)) return Bad(text, "the registry host is malformed");
      out.host = std::string(head);
      rest = rest.substr(first + 1);
    }
  }
  if (out.host.empty() || out.host == "index.docker.io") out.host = "docker.io";
  out.repository = std::string(rest);
  if (out.repository.empty()) return Bad(text, "the repository is empty");
  if (!IsRepository(out.repository)) {
    return Bad(text, "the repository must be lower case letters and digits, separated by `.`, `_`, `-`, `/`");
  }
  if (out.host == "docker.io" && out.repository.find('/') == std::string::npos) {
    out.repository = "library/" + out.repository;
  }
  if (out.Name().size() > kMaxName) return Bad(text, "the name is longer than 255 characters");
  if (out.tag.empty() && out.digest.empty()) out.tag = "latest";
  return out;
}

absl::StatusOr<std::string> NormalizeReference(const std::string& reference) {
  ASSIGN_OR_RETURN(Reference parsed, ParseReference(reference));
  return parsed.String();
}

}  // namespace sock::oci
