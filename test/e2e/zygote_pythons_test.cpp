// Interpreters that hack/pythons keeps roots of, in pods: a program that is forked tells what a plainly
// started one does. Skipped where it has not run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "test/e2e/zygote_fixture.h"

namespace sock::test {
namespace {

constexpr char kSelf[] = R"(
import json, os, re, sys, threading
print(sys.version, sys.argv, getattr(sys, 'orig_argv', None), sys.path, sys.flags, sys.executable, __name__)
status = dict(l.rstrip('\n').split(':\t', 1) for l in open('/proc/self/status') if ':\t' in l)
for key in ('Name', 'Umask', 'Pid', 'PPid', 'Uid', 'Gid', 'Groups', 'Threads', 'SigBlk', 'SigIgn', 'SigCgt', 'CapInh',
            'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp'):
    print(key, status[key])
print(open('/proc/self/cmdline').read()[:20], sorted(os.environ), os.getcwd(), os.readlink('/proc/self/exe'))
thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()
child = os.fork()
if child == 0: os._exit(3)
print(child, os.waitpid(child, 0)[1], json.dumps({'a': 1.5}), sys.getfilesystemencoding(), sys.stdout.encoding)
)";

class ZygotePythonsTest : public ZygoteFixture {
 protected:
  static void SetUpTestSuite() { node_ = new Node; }
};

TEST_F(ZygotePythonsTest, EachIsForkedAndRunsAsPlainly) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  const std::string folder =
      Cat(cache != nullptr ? cache : Cat(home != nullptr ? home : "", "/.cache"), "/cri-sock/pythons");
  std::error_code missing;
  int tried = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder, missing)) {
    if (file.path().extension() != ".tar") continue;
    const std::string name = file.path().stem();
    SCOPED_TRACE(name);
    image_ = PushTar(*node_, file.path(), "python-" + name);
    if (image_.empty()) continue;
    ++tried;
    for (const auto& [program, exit] : std::vector<std::pair<std::string, int>>{
             {kSelf, 0},
             {"import sys; sys.exit(7)", 7},
             {"import json\njson.loads('[')", 1},
             {"import os, signal; os.kill(1, signal.SIGKILL); print(os.getpid())", 0}}) {
      const std::vector<std::string> command{"python3", "-c", program};
      const Run forked = RunForked(command, {{"imports.cri-sock.io", "json"}});
      EXPECT_TRUE(forked.forked) << forked.reason << forked.status.error_message();
      const Run plain = RunOne(command, {{"zygote.cri-sock.io", "off"}});
      EXPECT_EQ(plain.exit, exit) << plain.log;
      EXPECT_EQ(forked.exit, exit);
      EXPECT_EQ(forked.log, plain.log);
    }
  }
  if (tried == 0) GTEST_SKIP() << "hack/pythons has not run";
}

}  // namespace
}  // namespace sock::test
