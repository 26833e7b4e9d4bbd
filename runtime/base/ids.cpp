#include "runtime/base/ids.h"

#include <sys/random.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "runtime/base/text.h"

namespace sock {

std::string NewId() {
  char bytes[32];
  // 32 bytes are below the size at which getrandom(2) may be interrupted or short.
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) abort();
  return absl::BytesToHexString(absl::string_view(bytes, sizeof bytes));
}

absl::Status CheckId(std::string_view id, std::string_view field) {
  auto allowed = [](unsigned char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-'; };
  if (id.empty()) return absl::InvalidArgumentError(Cat(field, " is empty"));
  if (id.size() > 128 || !absl::ascii_isalnum(static_cast<unsigned char>(id[0])) ||
      !std::all_of(id.begin(), id.end(), allowed))
    return absl::InvalidArgumentError(Cat(field, " `", absl::CHexEscape(std::string(id.substr(0, 128))),
                                          "` is not an id: 1 to 128 of [a-zA-Z0-9_.-] are"));
  return absl::OkStatus();
}

}  // namespace sock
