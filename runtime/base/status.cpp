#include "runtime/base/status.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "runtime/base/text.h"

namespace sock {
namespace {

constexpr absl::string_view kErrnoPayload = "cri-sock/errno";

absl::StatusCode CodeOf(int err) {
  switch (err) {
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kInternal;
  }
}

absl::Status Rebuild(const absl::Status& from, absl::StatusCode code, std::string_view message) {
  absl::Status made(code, absl::string_view(message.data(), message.size()));
  from.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { made.SetPayload(url, payload); });
  return made;
}

}  // namespace

absl::Status ErrnoStatus(int err, std::string_view what) {
  char text[128];
  absl::Status status(CodeOf(err), Cat(what, ": ", strerror_r(err, text, sizeof text)));
  status.SetPayload(kErrnoPayload, absl::Cord(Cat(err)));
  return status;
}

int ErrnoOf(const absl::Status& status) {
  int err = 0;
  if (auto payload = status.GetPayload(kErrnoPayload)) (void)absl::SimpleAtoi(std::string(*payload), &err);
  return err;
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return Rebuild(status, status.code(), Cat(context, ": ", status.message()));
}

absl::Status WithCode(const absl::Status& status, absl::StatusCode code) {
  if (status.ok()) return status;
  return Rebuild(status, code, std::string(status.message()));
}

}  // namespace sock
