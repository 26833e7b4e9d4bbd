// Errors: absl::Status everywhere (its codes are gRPC's). The text is one sentence from outside to inside, in
// lower case, objects in backquotes, errno's text once at the end: "create container: open `/x`: No such file
// or directory".
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sock {

// An error of a system call. `err` is errno, kept as a payload (see ErrnoOf). Running out of something
// (memory, fds, disk, processes) is RESOURCE_EXHAUSTED, everything else INTERNAL: a code that means more is
// chosen by the caller who knows what the object is to the user (see WithCode).
absl::Status ErrnoStatus(int err, std::string_view what);

// The errno that an ErrnoStatus carried, through any Annotate or WithCode; 0 where there was none.
int ErrnoOf(const absl::Status& status);

// The same error with "context: " before its message. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// The same error and payload under another code. OK stays OK.
absl::Status WithCode(const absl::Status& status, absl::StatusCode code);

}  // namespace sock

#define SOCK_CONCAT_INNER(a, b) a##b
#define SOCK_CONCAT(a, b) SOCK_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expr)                                                          \
  do {                                                                                 \
    if (::absl::Status sock_status_ = (expr); !sock_status_.ok()) return sock_status_; \
  } while (0)

#define RETURN_IF_ERROR_AS(expr, context)                         \
  do {                                                            \
    if (::absl::Status sock_status_ = (expr); !sock_status_.ok()) \
      return ::sock::Annotate(sock_status_, (context));           \
  } while (0)

#define ASSIGN_OR_RETURN(lhs, expr) SOCK_ASSIGN_OR_RETURN(SOCK_CONCAT(sock_or_, __LINE__), lhs, expr)
#define SOCK_ASSIGN_OR_RETURN(tmp, lhs, expr) \
  auto tmp = (expr);                          \
  if (!tmp.ok()) return tmp.status();         \
  lhs = *std::move(tmp)

#define ASSIGN_OR_RETURN_AS(lhs, expr, context) \
  SOCK_ASSIGN_OR_RETURN_AS(SOCK_CONCAT(sock_or_, __LINE__), lhs, expr, context)
#define SOCK_ASSIGN_OR_RETURN_AS(tmp, lhs, expr, context)          \
  auto tmp = (expr);                                               \
  if (!tmp.ok()) return ::sock::Annotate(tmp.status(), (context)); \
  lhs = *std::move(tmp)
