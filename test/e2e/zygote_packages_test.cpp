// Programs of test/packages in pods: forked from a Zygote and started plainly, they tell the same. Skipped
// where hack/python-packages has not run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>

#include "runtime/base/path.h"
#include "test/e2e/zygote_fixture.h"

namespace sock::test {
namespace {

std::string Text(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(Cat(SOURCE_DIR, "/test/packages/", path));
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

// What the lines `# KEY: VALUE` at a program's beginning say.
std::vector<std::string> Head(const std::string& program, const std::string& key) {
  std::vector<std::string> values;
  for (size_t at = 0; program.compare(at, 2, "# ") == 0; at = program.find('\n', at) + 1)
    if (const std::string begin = Cat("# ", key, ": "); program.compare(at, begin.size(), begin) == 0)
      values.push_back(program.substr(at + begin.size(), program.find('\n', at) - at - begin.size()));
  return values;
}

class ZygotePackagesTest : public ZygoteFixture {
 protected:
  static void SetUpTestSuite() {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const std::string folder = Cat(cache != nullptr ? cache : Cat(home != nullptr ? home : "", "/.cache"),
                                   "/cri-sock/packages-3.11");
    node_ = new Node;
    if (!std::filesystem::exists(folder)) return;
    image_ = PushPython(
        *node_, {{"loopback", Text("lib/loopback.py")}},
        Cat("copy() { python3 ", SOURCE_DIR, "/test/packages/copy.py ", folder,
            " \"$1\" numpy threadpoolctl pillow matplotlib requests cryptography fastapi uvicorn grpcio "
            "sqlalchemy; }; copy"));
    ASSERT_FALSE(image_.empty());
  }
};

TEST_F(ZygotePackagesTest, RealWorkIsTheSame) {
  if (image_.empty()) GTEST_SKIP() << "hack/python-packages has not run";
  for (const char* name :
       {"numpy", "pillow", "matplotlib", "requests", "cryptography", "fastapi", "grpcio", "sqlalchemy"}) {
    SCOPED_TRACE(name);
    const std::string program = Text(Cat("programs/", name, ".py"));
    const std::vector<std::string> command{"python3", "-c", program}, load = Head(program, "load");
    ASSERT_EQ(load.size(), 1u);
    const Change change = [&](api::ContainerConfig& config) {
      for (const std::string& variable : Head(program, "env")) {
        auto* env = config.add_envs();
        env->set_key(variable.substr(0, variable.find('=')));
        env->set_value(variable.substr(variable.find('=') + 1));
      }
    };
    const Run forked = RunForked(command, {{"imports.cri-sock.io", load[0]}}, true, change);
    EXPECT_TRUE(forked.forked) << forked.reason;
    const Run plain = RunOne(command, {{"zygote.cri-sock.io", "off"}}, true, change);
    EXPECT_EQ(plain.exit, 0) << plain.log;
    EXPECT_EQ(forked.exit, 0);
    EXPECT_EQ(forked.log, plain.log);
  }
}

TEST_F(ZygotePackagesTest, RandomNumbersDiffer) {
  if (image_.empty()) GTEST_SKIP() << "hack/python-packages has not run";
  std::set<std::string> seen;
  for (int i = 0; i < 3; ++i) {
    const Run run = RunForked({"python3", "-c",
                               "import numpy as np\n"
                               "for line in (np.random.random(), np.random.standard_normal(),\n"
                               "             np.random.default_rng().random()): print(line)\n"},
                              {{"imports.cri-sock.io", "numpy.random"}});
    ASSERT_TRUE(run.forked) << run.reason;
    std::istringstream lines(run.log);
    for (std::string line; std::getline(lines, line);) seen.insert(line);
  }
  EXPECT_EQ(seen.size(), 9u);
}

}  // namespace
}  // namespace sock::test
