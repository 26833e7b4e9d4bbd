// What program a container's command line means, and whether it can start from a Zygote.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sock::zygote {

// A Python program, as its interpreter would understand its command line.
struct Program {
  enum class Mode { kScript, kModule, kCommand };

  std::string interpreter;  // what execve(2) would get, made absolute: symlinks tell Python of its venv
  std::string version;      // "3.11" where the file's name tells, else empty: the Zygote's hello says it
  // Those that hold from the interpreter's start and so select a Zygote, each one word ("-O", "-Xdev"):
  // single letters sorted, then -W and -X in their order.
  std::vector<std::string> options;
  bool unbuffered = false, dont_write_bytecode = false;  // -u, -B: can be had later
  Mode mode = Mode::kScript;
  std::string target;                  // the script's path as given, the module's name, the text
  std::vector<std::string> arguments;  // what follows it
  std::vector<std::string> args;       // the whole command line as execve(2) leaves it, shebangs expanded
};

// Looks `args` up as execve(2) would with the container's `env` and `cwd`, through PATH, shebangs and env(1),
// in the file system at `root` (any descriptor of its directory). Volumes are not seen: whether one covers
// the interpreter is for the caller to ask. A script need not exist, if it is named after an interpreter.
// FAILED_PRECONDITION, and no other code, for all that must start plainly; the message is the reason.
absl::StatusOr<Program> FindProgram(int root, const std::vector<std::string>& args,
                                    const std::vector<std::string>& env, const std::string& cwd);

// The environment that a Zygote of this container starts and imports in, sorted: the image's own, but the
// variables that Python, the C library and well-known packages read before a program's first line are as the
// container has them. Entries are NAME=value; of two of one name the last holds.
std::vector<std::string> StartEnvironment(const std::vector<std::string>& image_env,
                                          const std::vector<std::string>& container_env);

// Parts of FindProgram, for tests.

// Reads options, mode, target and arguments out of `args`, as CPython's own command line is read.
absl::Status ReadCommandLine(Program& program);

struct Shebang {
  std::string interpreter;
  std::string argument;  // empty: none
};
// The first line of a script, out of the file's first 256 bytes, as Linux reads it (fs/binfmt_script.c).
absl::StatusOr<Shebang> ParseShebang(std::string_view head);

// The command line that `env` (argv[0] and arguments) would execute. Follows -S with plain words only.
absl::StatusOr<std::vector<std::string>> FollowEnv(std::vector<std::string> args);

}  // namespace sock::zygote
