#include "zygote/program.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::zygote {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Strings = std::vector<std::string>;

// A root file system with a Python as Debian, docker.io/python and a venv have it. No file of it can run.
class ProgramTest : public ::testing::Test {
 protected:
  ProgramTest() {
    char name[] = "/tmp/program_test.XXXXXX";
    dir_ = mkdtemp(name);
    root_ = *OpenPath(dir_, O_PATH | O_DIRECTORY);
    for (auto path : {"/usr/bin/python3.11", "/usr/local/bin/python3.14", "/usr/bin/env", "/usr/bin/dash",
                      "/usr/bin/pypy3.10", "/usr/bin/python3.8", "/usr/bin/node"})
      Write(path,
            "\x7f"
            "ELF");
    Link("/usr/bin/python3", "python3.11");
    Link("/usr/bin/sh", "/usr/bin/dash");
    Link("/usr/local/bin/python3", "/usr/local/bin/python3.14");
    Link("/usr/local/bin/python", "python3");
    Link("/usr/local/bin/pypython3", "/usr/bin/pypy3.10");
    Link("/app/venv/bin/python", "/usr/bin/python3");
    Link("/bin", "usr/bin");
  }
  ~ProgramTest() override { fs::remove_all(dir_); }

  void Write(const std::string& path, const std::string& text, bool executable = true) {
    fs::create_directories(fs::path(dir_ + path).parent_path());
    std::ofstream(dir_ + path) << text;
    fs::permissions(dir_ + path, executable ? fs::perms(0755) : fs::perms(0644));
  }
  void Link(const std::string& path, const std::string& target) {
    fs::create_directories(fs::path(dir_ + path).parent_path());
    fs::create_symlink(target, dir_ + path);
  }
  absl::StatusOr<Program> Find(const Strings& args) { return FindProgram(root_.get(), args, env_, cwd_); }
  Program Found(const Strings& args) {
    auto program = Find(args);
    EXPECT_TRUE(program.ok()) << program.status();
    return program.ok() ? *program : Program{};
  }
  std::string ReasonOf(const Strings& args) {
    auto program = Find(args);
    EXPECT_EQ(program.status().code(), absl::StatusCode::kFailedPrecondition) << program.status();
    return std::string(program.status().message());
  }

  std::string dir_;
  Fd root_;
  Strings env_ = {"PATH=/nowhere:/usr/local/bin:/usr/bin"};
  std::string cwd_ = "/app";
};

TEST_F(ProgramTest, ThroughPath) {
  Program program = Found({"python3", "-u", "app.py", "-x", "2"});
  EXPECT_EQ(program.interpreter, "/usr/local/bin/python3");
  EXPECT_EQ(program.version, "3.14");
  EXPECT_TRUE(program.unbuffered);
  EXPECT_FALSE(program.dont_write_bytecode);
  EXPECT_THAT(program.options, IsEmpty());
  EXPECT_EQ(program.mode, Program::Mode::kScript);
  EXPECT_EQ(program.target, "app.py");
  EXPECT_THAT(program.arguments, ElementsAre("-x", "2"));
  EXPECT_THAT(program.args, ElementsAre("python3", "-u", "app.py", "-x", "2"));
  EXPECT_EQ(Found({"python3.11", "x"}).interpreter, "/usr/bin/python3.11");
  EXPECT_EQ(Found({"python3.11", "x"}).version, "3.11");
  env_ = {};  // the runtime's own default
  EXPECT_EQ(Found({"python", "x"}).interpreter, "/usr/local/bin/python");
  env_ = {"PATH=/nowhere"};
  EXPECT_EQ(ReasonOf({"python3", "x"}), "`python3` is not on the image's PATH");
}

TEST_F(ProgramTest, ByItsPath) {
  EXPECT_EQ(Found({"/usr/bin/python3", "x"}).interpreter, "/usr/bin/python3");
  // A venv is known by the path through which its interpreter was started.
  EXPECT_EQ(Found({"venv/bin/python", "x"}).interpreter, "/app/venv/bin/python");
  EXPECT_EQ(Found({"./venv/bin/python", "x"}).version, "3.11");
  env_ = {"PATH=venv/bin"};
  EXPECT_EQ(Found({"python", "x"}).interpreter, "/app/venv/bin/python");
  EXPECT_EQ(Found({"python", "x"}).args[0], "python");
  cwd_ = "/app/venv/bin";
  env_ = {"PATH=/nowhere::"};
  EXPECT_EQ(Found({"python", "x"}).interpreter, "/app/venv/bin/python");
}

TEST_F(ProgramTest, Shebangs) {
  Write("/usr/local/bin/flask", "#!/usr/local/bin/python3\nimport flask\n");
  Program program = Found({"flask", "run", "--port", "80"});
  EXPECT_EQ(program.interpreter, "/usr/local/bin/python3");
  EXPECT_EQ(program.target, "/usr/local/bin/flask");
  EXPECT_THAT(program.args,
              ElementsAre("/usr/local/bin/python3", "/usr/local/bin/flask", "run", "--port", "80"));
  EXPECT_THAT(program.arguments, ElementsAre("run", "--port", "80"));

  Write("/app/main.py", "#! /usr/bin/python3\t -uO \npass");
  program = Found({"./main.py", "1"});
  EXPECT_THAT(program.args, ElementsAre("/usr/bin/python3", "-uO", "./main.py", "1"));
  EXPECT_TRUE(program.unbuffered);
  EXPECT_THAT(program.options, ElementsAre("-O"));
  EXPECT_EQ(program.target, "./main.py");

  // Two words are one argument to the kernel.
  Write("/app/two", "#!/usr/bin/python3 -u -O\n");
  EXPECT_THAT(ReasonOf({"/app/two"}), HasSubstr("option `- ` cannot"));

  Write("/app/env.py", "#!/usr/bin/env python3\n");
  program = Found({"/app/env.py", "a"});
  EXPECT_EQ(program.interpreter, "/usr/local/bin/python3");
  EXPECT_THAT(program.args, ElementsAre("python3", "/app/env.py", "a"));
  Write("/app/split", "#!/usr/bin/env -S python3 -u  -X dev");
  program = Found({"/app/split", "a"});
  EXPECT_THAT(program.args, ElementsAre("python3", "-u", "-X", "dev", "/app/split", "a"));
  EXPECT_THAT(program.options, ElementsAre("-Xdev"));

  // An interpreter that is itself a script.
  Write("/app/wrapper", "#!/usr/bin/python3 -B\n");
  Write("/app/wrapped", "#!/app/wrapper x y\n");
  EXPECT_THAT(Found({"/app/wrapped", "z"}).args,
              ElementsAre("/usr/bin/python3", "-B", "/app/wrapper", "x y", "/app/wrapped", "z"));
  Write("/app/relative", "#!main.py\n");
  EXPECT_THAT(Found({"/app/relative"}).args,
              ElementsAre("/usr/bin/python3", "-uO", "main.py", "/app/relative"));
  Write("/app/loop", "#!/app/loop\n");
  EXPECT_THAT(ReasonOf({"/app/loop"}), HasSubstr("more than 5 interpreters"));
}

TEST_F(ProgramTest, EnvByItself) {
  EXPECT_EQ(Found({"env", "python3.11", "x"}).interpreter, "/usr/bin/python3.11");
  EXPECT_THAT(ReasonOf({"env", "A=1", "python3", "x"}), HasSubstr("env sets `A=1`"));
  EXPECT_THAT(ReasonOf({"env", "-i", "python3", "x"}), HasSubstr("option `-i` of env"));
  EXPECT_THAT(ReasonOf({"env"}), HasSubstr("without a program"));
  fs::remove(dir_ + "/usr/bin/env");
  Write("/usr/bin/busybox",
        "\x7f"
        "ELF");
  Link("/usr/bin/env", "busybox");
  EXPECT_TRUE(Find({"env", "python3", "x"}).ok());
  EXPECT_THAT(ReasonOf({"env", "-S", "python3", "x"}), HasSubstr("of `busybox`'s env"));
}

TEST_F(ProgramTest, WhatMustStartPlainly) {
  Write("/app/data.py", "print()", false);
  Write("/app/text", "print()");
  Write("/app/dos", "#!/usr/bin/python3\r\n");
  Write("/app/none", "#! \n");
  Write("/app/long", "#!/usr/bin/python3 " + std::string(300, 'a') + "\n");
  Write("/app/out/../../x", "");
  fs::create_directories(dir_ + "/app/folder");
  ASSERT_EQ(mkfifo((dir_ + "/app/fifo").c_str(), 0755), 0);
  Link("/app/round", "round");
  Link("/app/outside", "../../../../../../../../bin/true");  // stays in the root, where there is none
  for (auto [args, reason] : {std::pair<Strings, const char*>{{}, "empty"},
                              {{""}, "names no program"},
                              {{"node", "x"}, "`/usr/bin/node`: it is `node`, not python3"},
                              {{"sh", "-c", "exec python3 app.py"}, "`/usr/bin/sh`: it is `dash`"},
                              {{"pypython3", "x"}, "it is `pypy3.10`"},
                              {{"python3.8", "x"}, "older than Python 3.9"},
                              {{"/usr/bin/absent"}, "is not in the image"},
                              {{"/app/outside"}, "is not in the image"},
                              {{"/app/folder"}, "not an executable file"},
                              {{"/app/fifo"}, "not an executable file"},
                              {{"/app/data.py"}, "not an executable file"},
                              {{"/app/round"}, "Too many levels"},
                              {{"/app/text"}, "neither a program nor a script"},
                              {{"/app/dos"}, "`/usr/bin/python3\\r` is not in the image"},
                              {{"/app/none"}, "names no interpreter"},
                              {{"/app/long"}, "longer than 256"}})
    EXPECT_THAT(ReasonOf(args), HasSubstr(reason));
}

TEST_F(ProgramTest, VariablesThatDoWhatOptionsDo) {
  env_.push_back("PYTHONINSPECT=1");
  EXPECT_THAT(ReasonOf({"python3", "x"}), HasSubstr("`PYTHONINSPECT`"));
  EXPECT_TRUE(Find({"python3", "-I", "x"}).ok());
  env_.back() = "PYTHONVERBOSE=";
  EXPECT_TRUE(Find({"python3", "x"}).ok());
}

std::string Options(const Program& program) {
  std::string text;
  for (const std::string& option : program.options) text += option + " ";
  if (program.unbuffered) text += "u ";
  if (program.dont_write_bytecode) text += "B ";
  text += program.mode == Program::Mode::kScript   ? "script"
          : program.mode == Program::Mode::kModule ? "module"
                                                   : "command";
  text += " " + program.target + ":";
  for (const std::string& argument : program.arguments) text += " " + argument;
  return text;
}

TEST(CommandLineTest, ReadAsCPythonDoes) {
  for (const auto& [args, options] : std::initializer_list<std::pair<Strings, const char*>>{
           {{"x.py"}, "script x.py:"},
           {{"-uB", "x.py", "-O"}, "u B script x.py: -O"},
           {{"-OO", "-E", "-sSP", "-b", "x"}, "-E -O -O -P -S -b -s script x:"},
           {{"-m", "http.server", "80"}, "module http.server: 80"},
           {{"-mhttp.server", "-u"}, "module http.server: -u"},
           {{"-Imu", "x"}, "-I module u: x"},
           {{"-cprint(1)", "a"}, "command print(1): a"},
           {{"-uc", "print(1)", "-c"}, "u command print(1): -c"},
           {{"-c", ""}, "command :"},
           {{"-c", "-u"}, "command -u:"},
           {{"-W", "ignore", "-Werror", "-X", "dev", "-Xutf8=1", "x"},
            "-Wignore -Werror -Xdev -Xutf8=1 script x:"},
           {{"-uWignore", "x"}, "-Wignore u script x:"},
           {{"-W", "-u", "x"}, "-W-u script x:"},
           {{"-u", "--", "-x", "-y"}, "u script -x: -y"},
           {{"-m", "pkg", "--", "-y"}, "module pkg: -- -y"},
       }) {
    Program program{.args = {"python3"}};
    program.args.insert(program.args.end(), args.begin(), args.end());
    auto status = ReadCommandLine(program);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Options(program), options);
  }
  for (const auto& [args, reason] : std::initializer_list<std::pair<Strings, const char*>>{
           {{}, "stdin"},
           {{"-u"}, "stdin"},
           {{"-"}, "stdin"},
           {{"-u", "-", "x"}, "stdin"},
           {{"--"}, "stdin"},
           {{""}, "path is empty"},
           {{"-i", "x"}, "`-i`"},
           {{"-ui", "x"}, "`-i`"},
           {{"-x", "x"}, "`-x`"},
           {{"-V"}, "`-V` runs no program"},
           {{"-h"}, "`-h` runs no program"},
           {{"-v", "x"}, "`-v`"},
           {{"-X", "importtime", "x"}, "importtime"},
           {{"-X", "", "x"}, "without a value"},
           {{"-W"}, "without a value"},
           {{"-m"}, "without a value"},
           {{"--version"}, "`--version`"},
           {{"--check-hash-based-pycs", "never", "x"}, "`--check-hash-based-pycs`"},
           {{"-J"}, "`-J`"},
           {{"-\x01"}, "`-\\001`"},
       }) {
    Program program{.args = {"python3"}};
    program.args.insert(program.args.end(), args.begin(), args.end());
    auto status = ReadCommandLine(program);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(status.message(), HasSubstr(reason));
  }
}

TEST(StartEnvironmentTest, StartVariablesOfTheContainerTheRestOfTheImage) {
  EXPECT_THAT(
      StartEnvironment(
          {"PATH=/usr/bin", "PYTHON_VERSION=3.14", "GPG_KEY=x", "LANG=C.UTF-8", "TZ=UTC", "broken"},
          {"PATH=/usr/bin:/app", "PYTHON_VERSION=3.14", "GPG_KEY=y", "LANG=C.UTF-8", "SECRET=z",
           "OPENBLAS_NUM_THREADS=2", "MPLBACKEND=agg", "LD_PRELOAD=/x.so", "https_proxy=p", "=odd",
           "LC_ALL=C", "LC_ALL=de", "KUBERNETES_PORT=1"}),
      ElementsAre("GPG_KEY=x", "LANG=C.UTF-8", "LC_ALL=de", "LD_PRELOAD=/x.so", "MPLBACKEND=agg",
                  "OPENBLAS_NUM_THREADS=2", "PATH=/usr/bin:/app", "PYTHON_VERSION=3.14", "https_proxy=p"));
  EXPECT_THAT(StartEnvironment({}, {}), IsEmpty());
}

}  // namespace
}  // namespace sock::zygote
