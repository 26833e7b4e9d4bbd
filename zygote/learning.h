// What a program imported, as seen from outside: the files that it opened (fanotify(7)).
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"

namespace sock::zygote {

// The dotted name of the module that a file of an image is the code of: under site-packages, dist-packages or
// a standard library. Empty: of none, or of one that no Zygote should import (`__main__`, what site imports).
std::string ModuleOfFile(std::string_view path);

// The files that a container opens on its root file system, of which it is told and not asked: the container
// waits for nothing.
class OpenWatch {
 public:
  static constexpr size_t kMaxModules = 2000;
  // From now on, of the container whose first process is `pid` and waits at its barrier.
  static absl::StatusOr<OpenWatch> Open(pid_t pid);
  // Takes note of what was opened meanwhile. More than kMaxModules, or than the kernel's queue holds, is
  // lost.
  void Drain();
  // In the order in which they were first opened.
  const std::vector<std::string>& modules() const { return modules_; }

 private:
  explicit OpenWatch(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
  std::vector<std::string> modules_;
};

}  // namespace sock::zygote
