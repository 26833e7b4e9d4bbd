// A script's first bytes, then, after the first empty line, the words of a command line, one a line.
#include "zygote/program.h"

#include "absl/strings/str_split.h"
#include "test/fuzz/fuzz.h"

using namespace sock::zygote;

FUZZ(program) {
  size_t gap = input.find("\n\n");
  if (auto shebang = ParseShebang(input); shebang.ok()) {
    CHECK(!shebang->interpreter.empty());
    CHECK(shebang->interpreter.find_first_of(" \t\n") == std::string::npos);
  }
  absl::string_view words(input.data(), input.size());
  if (gap != input.npos) words.remove_prefix(gap + 2);
  std::vector<std::string> args = absl::StrSplit(words, '\n');
  if (auto followed = FollowEnv(args); followed.ok()) CHECK(!followed->empty());
  Program program{.args = args};
  if (!ReadCommandLine(program).ok()) return;
  // Options, target and arguments put together again mean the same.
  Program again{.args = {args[0]}};
  again.args.insert(again.args.end(), program.options.begin(), program.options.end());
  if (program.mode == Program::Mode::kScript) again.args.push_back("--");
  if (program.mode == Program::Mode::kModule) again.args.push_back("-m");
  if (program.mode == Program::Mode::kCommand) again.args.push_back("-c");
  again.args.push_back(program.target);
  again.args.insert(again.args.end(), program.arguments.begin(), program.arguments.end());
  CHECK(ReadCommandLine(again).ok());
  CHECK(again.options == program.options && again.mode == program.mode && again.target == program.target &&
        again.arguments == program.arguments);
}
