#include "zygote/program.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <map>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::zygote {
namespace {

constexpr size_t kHeadBytes = 256;  // BINPRM_BUF_SIZE
constexpr int kMaxSteps = 5;        // the kernel follows as many interpreters, and env counts as one here
// What the lean runtime takes for PATH where there is none, and what execvp(3) takes.
constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr char kExecvpPath[] = "/bin:/usr/bin";

template <typename... Values>
absl::Status Reason(const Values&... values) {
  return absl::FailedPreconditionError(Cat(values...));
}

std::string Quoted(std::string_view text) {
  return Cat("`", absl::CEscape({text.data(), std::min(text.size(), size_t{100})}), "`");
}

std::string_view Basename(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string Absolute(const std::string& cwd, const std::string& path) {
  if (path.starts_with('/')) return path;
  return Cat(cwd.starts_with('/') ? "" : "/", cwd, cwd.ends_with('/') ? "" : "/", path);
}

std::optional<std::string> Get(const std::vector<std::string>& env, std::string_view name) {
  std::optional<std::string> value;
  for (const std::string& entry : env)
    if (entry.size() > name.size() && entry[name.size()] == '=' && entry.starts_with(name))
      value = entry.substr(name.size() + 1);
  return value;
}

struct File {
  std::string real_name;  // its basename behind all symlinks
  std::string head;       // its first bytes
};

// A regular file that somebody may execute. Only a regular one is opened for reading: opening may do things.
absl::StatusOr<File> ReadProgram(int root, const std::string& path) {
  ASSIGN_OR_RETURN(Fd place, OpenInRoot(root, path, O_PATH));
  struct stat st;
  if (fstat(place.get(), &st) < 0) return ErrnoStatus(errno, "stat");
  if (!S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0) return Reason("not an executable file");
  std::string link = Cat("/proc/self/fd/", place.get());
  char target[PATH_MAX];
  ssize_t length = readlink(link.c_str(), target, sizeof target);
  if (length < 0) return ErrnoStatus(errno, "read link");
  ASSIGN_OR_RETURN(Fd fd, OpenPath(link, O_RDONLY));
  File file{.real_name = std::string(Basename({target, static_cast<size_t>(length)}))};
  char buffer[kHeadBytes];
  length = pread(fd.get(), buffer, sizeof buffer, 0);
  if (length < 0) return ErrnoStatus(errno, "read");
  file.head.assign(buffer, static_cast<size_t>(length));
  return file;
}

struct Found {
  std::string path;  // as execve(2) gets it
  File file;
};

// Without `search_path` the name is a path, whether it has a slash or not.
absl::StatusOr<Found> LookUp(int root, const std::string& name, std::optional<std::string> search_path,
                             const std::string& cwd) {
  if (name.empty()) return Reason("the command line names no program");
  if (!search_path || name.find('/') != name.npos) {
    auto file = ReadProgram(root, Absolute(cwd, name));
    if (absl::IsNotFound(file.status())) return Reason(Quoted(name), " is not in the image");
    if (!file.ok()) return Reason(Quoted(name), ": ", file.status().message());
    return Found{name, *std::move(file)};
  }
  for (absl::string_view folder : absl::StrSplit(*search_path, ':')) {
    std::string path = folder.empty() ? name : Cat(folder, "/", name);
    if (auto file = ReadProgram(root, Absolute(cwd, path)); file.ok()) return Found{path, *std::move(file)};
  }
  return Reason(Quoted(name), " is not on the image's PATH");
}

// OK and the version if the name is one that CPython has: python, python3, python3.11.
absl::StatusOr<std::string> CheckName(std::string_view name) {
  std::string_view rest = name;
  if (rest.starts_with("python")) {
    rest.remove_prefix(6);
    if (rest.empty() || rest == "3") return std::string();
    int minor = 0;
    if (rest.starts_with("3.") && std::ranges::all_of(rest.substr(2), absl::ascii_isdigit) &&
        absl::SimpleAtoi(absl::string_view(rest.data() + 2, rest.size() - 2), &minor)) {
      if (minor < 9) return Reason(Quoted(name), " is older than Python 3.9");
      return std::string(rest);
    }
  }
  return Reason("it is ", Quoted(name), ", not python3");
}

// Variables that do what makes an option unfit.
absl::Status CheckEnvironment(const Program& program, const std::vector<std::string>& env) {
  for (const std::string& option : program.options)
    if (option == "-E" || option == "-I") return absl::OkStatus();
  for (auto [name, reason] : {std::pair{"PYTHONINSPECT", "an interactive session follows the program"},
                              {"PYTHONVERBOSE", "each import is told on stderr"},
                              {"PYTHONPROFILEIMPORTTIME", "each import is told on stderr"}})
    if (auto value = Get(env, name); value && !value->empty())
      return Reason("environment variable `", name, "`: ", reason);
  return absl::OkStatus();
}

bool StartsWithAny(std::string_view name, std::initializer_list<std::string_view> prefixes) {
  return std::ranges::any_of(prefixes, [&](std::string_view prefix) { return name.starts_with(prefix); });
}

bool IsStartVariable(std::string_view name) {
  // Interpreter, dynamic linker, C library.
  if (StartsWithAny(name, {"PYTHON", "LD_", "MALLOC_", "GLIBC_", "GCONV_", "LC_"})) return true;
  // Native libraries and their thread pools; packages that read these while they are imported.
  if (name.ends_with("_NUM_THREADS") || name.ends_with("_MAX_THREADS")) return true;
  if (StartsWithAny(name, {"OMP_",    "KMP_",      "GOMP_",      "MKL_",   "OPENBLAS_",     "BLIS_",
                           "NUMBA_",  "NPY_",      "TF_",        "TORCH_", "TRANSFORMERS_", "TOKENIZERS_",
                           "CUDA_",   "PYTORCH_",  "JAX_",       "XLA_",   "GRPC_",         "OPENSSL_",
                           "POLARS_", "ARROW_",    "DD_",        "OTEL_",  "HF_",           "MPL",
                           "XDG_",    "COVERAGE_", "MATPLOTLIB", "JE_",    "_RJEM_"}))
    return true;
  for (std::string_view other :
       {"PATH", "HOME", "TZ", "TZDIR", "LANG", "LANGUAGE", "LOCPATH", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV",
        "CONDA_PREFIX", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"})
    if (name == other) return true;
  std::string upper(name);
  absl::AsciiStrToUpper(&upper);
  return upper == "HTTP_PROXY" || upper == "HTTPS_PROXY" || upper == "FTP_PROXY" || upper == "ALL_PROXY" ||
         upper == "NO_PROXY";
}

}  // namespace

absl::StatusOr<Shebang> ParseShebang(std::string_view head) {
  if (!head.starts_with("#!")) return Reason("no shebang");
  head = head.substr(0, kHeadBytes);
  size_t end = head.find('\n');
  if (end == head.npos && head.size() == kHeadBytes)
    return Reason("its shebang is longer than ", kHeadBytes, " bytes");
  std::string_view line = head.substr(2, end == head.npos ? end : end - 2);
  line = line.substr(0, line.find('\0'));
  auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!line.empty() && blank(line.back())) line.remove_suffix(1);
  while (!line.empty() && blank(line.front())) line.remove_prefix(1);
  size_t name_end = std::min(line.find_first_of(" \t"), line.size());
  if (name_end == 0) return Reason("its shebang names no interpreter");
  Shebang shebang{.interpreter = std::string(line.substr(0, name_end))};
  line.remove_prefix(name_end);
  while (!line.empty() && blank(line.front())) line.remove_prefix(1);
  shebang.argument = line;
  return shebang;
}

absl::StatusOr<std::vector<std::string>> FollowEnv(std::vector<std::string> args) {
  size_t at = 1;
  while (at < args.size() && args[at].starts_with('-')) {
    std::string option = args[at];
    if (option == "--") {
      ++at;
      break;
    }
    size_t used = 1;
    std::string words;
    if (option == "-S" || option == "--split-string") {
      if (at + 1 == args.size()) return Reason("`env ", option, "` without a text");
      words = args[at + 1];
      used = 2;
    } else if (option.starts_with("-S")) {
      words = option.substr(2);
    } else if (option.starts_with("--split-string=")) {
      words = option.substr(15);
    } else {
      return Reason("option ", Quoted(option), " of env");
    }
    if (words.find_first_of("\\\"'$#") != words.npos) return Reason("`env -S` with quotes or variables");
    std::vector<std::string> split = absl::StrSplit(words, absl::ByAnyChar(" \t\n\v\f\r"), absl::SkipEmpty());
    args.erase(args.begin() + at, args.begin() + at + used);
    args.insert(args.begin() + at, split.begin(), split.end());
  }
  if (at == args.size()) return Reason("env without a program");
  if (args[at].find('=') != args[at].npos) return Reason("env sets ", Quoted(args[at]));
  return std::vector<std::string>(args.begin() + at, args.end());
}

absl::Status ReadCommandLine(Program& program) {
  const std::vector<std::string>& args = program.args;
  size_t at = 1;
  std::string flags;
  std::vector<std::string> with_value;
  bool done = false;
  while (!done && at < args.size() && args[at].size() > 1 && args[at][0] == '-') {
    const std::string& word = args[at++];
    if (word == "--") break;
    for (size_t i = 1; i < word.size(); ++i) {
      char option = word[i];
      std::string_view shown = option == '-' ? std::string_view(word) : std::string_view(word).substr(i, 1);
      switch (option) {
        case 'u':
          program.unbuffered = true;
          continue;
        case 'B':
          program.dont_write_bytecode = true;
          continue;
        case 'b':
        case 'd':
        case 'E':
        case 'I':
        case 'O':
        case 'P':
        case 'q':
        case 'R':
        case 's':
        case 'S':
        case 't':
          flags += option;
          continue;
        case 'c':
        case 'm':
        case 'W':
        case 'X':
          break;
        case 'v':
          return Reason("option `-v`: each import is told on stderr");
        case 'i':
          return Reason("option `-i`: an interactive session follows the program");
        case 'x':
          return Reason("option `-x`: the script's first line is skipped");
        case 'h':
        case '?':
        case 'V':
          return Reason("option `-", shown, "` runs no program");
        default:
          return Reason("option ", Quoted(option == '-' ? word : Cat("-", shown)), " cannot be followed");
      }
      // What is left of the word is the value, or the next word is.
      std::string value = word.substr(i + 1);
      if (value.empty()) {
        if (at == args.size()) return Reason("option `-", shown, "` without a value");
        value = args[at++];
      }
      if (option == 'c' || option == 'm') {
        program.mode = option == 'c' ? Program::Mode::kCommand : Program::Mode::kModule;
        program.target = value;
        done = true;
      } else if (value.empty()) {
        return Reason("option `-", shown, "` without a value");
      } else if (option == 'X' && (value == "importtime" || value.starts_with("importtime="))) {
        return Reason("option `-X importtime`: each import is told on stderr");
      } else {
        with_value.push_back(Cat("-", shown, value));
      }
      break;
    }
  }
  if (!done) {
    if (at >= args.size() || args[at] == "-") return Reason("the program comes from stdin");
    if (args[at].empty()) return Reason("the script's path is empty");
    program.mode = Program::Mode::kScript;
    program.target = args[at++];
  }
  std::ranges::sort(flags);
  for (char flag : flags) program.options.push_back(Cat("-", flag));
  program.options.insert(program.options.end(), with_value.begin(), with_value.end());
  program.arguments.assign(args.begin() + at, args.end());
  return absl::OkStatus();
}

absl::StatusOr<Program> FindProgram(int root, const std::vector<std::string>& args,
                                    const std::vector<std::string>& env, const std::string& cwd) {
  if (args.empty()) return Reason("the command line is empty");
  Program program{.args = args};
  std::optional<std::string> search_path = Get(env, "PATH").value_or(kDefaultPath);
  std::string name = args[0];
  for (int step = 0; step < kMaxSteps; ++step) {
    ASSIGN_OR_RETURN(Found found, LookUp(root, name, search_path, cwd));
    if (found.file.head.starts_with("#!")) {
      ASSIGN_OR_RETURN_AS(Shebang shebang, ParseShebang(found.file.head), Quoted(found.path));
      std::vector<std::string> expanded = {shebang.interpreter};
      if (!shebang.argument.empty()) expanded.push_back(shebang.argument);
      expanded.push_back(found.path);
      expanded.insert(expanded.end(), program.args.begin() + 1, program.args.end());
      program.args = std::move(expanded);
      name = shebang.interpreter;
      search_path.reset();
      continue;
    }
    if (!found.file.head.starts_with("\x7f"
                                     "ELF"))
      return Reason(Quoted(found.path), " is neither a program nor a script with a shebang");
    if (Basename(found.path) == "env") {
      bool busybox = found.file.real_name != "env" && found.file.real_name != "coreutils";
      if (busybox && program.args.size() > 1 && program.args[1].starts_with('-'))
        return Reason("option ", Quoted(program.args[1]), " of ", Quoted(found.file.real_name), "'s env");
      ASSIGN_OR_RETURN(program.args, FollowEnv(std::move(program.args)));
      name = program.args[0];
      search_path = Get(env, "PATH").value_or(kExecvpPath);
      continue;
    }
    ASSIGN_OR_RETURN_AS(program.version, CheckName(found.file.real_name), Quoted(found.path));
    program.interpreter = Absolute(cwd, found.path);
    RETURN_IF_ERROR(ReadCommandLine(program));
    RETURN_IF_ERROR(CheckEnvironment(program, env));
    return program;
  }
  return Reason(Quoted(args[0]), ": more than ", kMaxSteps, " interpreters in a row");
}

std::vector<std::string> StartEnvironment(const std::vector<std::string>& image_env,
                                          const std::vector<std::string>& container_env) {
  std::map<std::string, std::string> variables;
  auto take = [&](const std::vector<std::string>& env, bool start) {
    for (const std::string& entry : env) {
      size_t equals = entry.find('=');
      if (equals == entry.npos || equals == 0) continue;
      std::string name = entry.substr(0, equals);
      if (IsStartVariable(name) == start) variables[name] = entry.substr(equals + 1);
    }
  };
  take(image_env, false);
  take(container_env, true);
  std::vector<std::string> environment;
  for (const auto& [name, value] : variables) environment.push_back(Cat(name, "=", value));
  std::ranges::sort(environment);
  return environment;
}

}  // namespace sock::zygote
