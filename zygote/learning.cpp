#include "zygote/learning.h"

#include <fcntl.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "absl/strings/str_split.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::zygote {
namespace {

bool IsName(std::string_view word) {
  if (word.empty() || isdigit(static_cast<unsigned char>(word[0]))) return false;
  return std::all_of(word.begin(), word.end(),
                     [](unsigned char c) { return c == '_' || (c < 128 && isalnum(c)); });
}

// What an interpreter loads before any program, and what a virtual environment's *.pth files commonly do:
// alone they make no other set.
bool IsOfEveryStart(std::string_view name) {
  static const std::set<std::string_view> kNames = {"stat",
                                                    "posixpath",
                                                    "os",
                                                    "io",
                                                    "genericpath",
                                                    "codecs",
                                                    "abc",
                                                    "zipimport",
                                                    "_bootlocale",
                                                    "_weakrefset",
                                                    "_sitebuiltins",
                                                    "_collections_abc",
                                                    "types",
                                                    "warnings",
                                                    "importlib",
                                                    "importlib.util",
                                                    "importlib._abc",
                                                    "importlib.machinery",
                                                    "importlib._bootstrap",
                                                    "importlib._bootstrap_external",
                                                    "contextlib",
                                                    "collections",
                                                    "collections.abc",
                                                    "functools",
                                                    "operator",
                                                    "keyword",
                                                    "reprlib",
                                                    "runpy",
                                                    "pkgutil",
                                                    "sysconfig",
                                                    "linecache",
                                                    "_virtualenv",
                                                    "ntpath"};
  return kNames.contains(name) || name == "encodings" || name.starts_with("encodings.");
}

// What stands behind the folder that sys.path names; empty: none.
std::string_view BelowSearchPath(std::string_view path) {
  for (const std::string_view folder : {"/site-packages/", "/dist-packages/", "/lib-dynload/"})
    if (const size_t at = path.find(folder); at != path.npos) return path.substr(at + folder.size());
  // /usr/lib/python3.11/…
  for (size_t at = 0; (at = path.find("/python3.", at)) != path.npos; ++at) {
    size_t end = at + 9;
    while (end < path.size() && isdigit(static_cast<unsigned char>(path[end]))) ++end;
    if (end > at + 9 && end < path.size() && path[end] == '/' && path.substr(0, at).ends_with("/lib"))
      return path.substr(end + 1);
  }
  return {};
}

}  // namespace

std::string ModuleOfFile(std::string_view path) {
  std::string_view below = BelowSearchPath(path);
  std::vector<std::string_view> words;
  while (!below.empty()) {
    const size_t slash = std::min(below.find('/'), below.size());
    words.push_back(below.substr(0, slash));
    below.remove_prefix(std::min(slash + 1, below.size()));
  }
  if (words.empty()) return "";
  std::string_view file = words.back();
  words.pop_back();
  // NAME.py, __pycache__/NAME.cpython-311[.opt-1].pyc, NAME[.cpython-311-…|.abi3].so
  if (!file.ends_with(".py") && !file.ends_with(".pyc") && !file.ends_with(".so")) return "";
  if (file.ends_with(".pyc")) {
    if (words.empty() || words.back() != "__pycache__") return "";
    words.pop_back();
  }
  file = file.substr(0, file.find('.'));
  if (file != "__init__") words.push_back(file);
  if (words.empty() || file == "__main__" || !std::all_of(words.begin(), words.end(), IsName)) return "";
  static constexpr std::string_view kNot[] = {"sitecustomize", "usercustomize",  "site", "antigravity",
                                              "this",          "idlelib",        "test", "lib2to3",
                                              "turtledemo",    "_distutils_hack"};
  if (std::find(std::begin(kNot), std::end(kNot), words[0]) != std::end(kNot)) return "";
  std::string name;
  for (const std::string_view word : words) name += Cat(name.empty() ? "" : ".", std::string(word));
  return IsOfEveryStart(name) ? "" : name;
}

absl::StatusOr<OpenWatch> OpenWatch::Open(pid_t pid) {
  // The kernel opens what is told once more: O_NONBLOCK, so that it waits for no lease of the program's, nor
  // for the other end of a pipe.
  Fd fd(fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK,
                      O_RDONLY | O_CLOEXEC | O_LARGEFILE | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "fanotify_init");
  const std::string root = Cat("/proc/", pid, "/root/");
  if (fanotify_mark(fd.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, AT_FDCWD, root.c_str()) < 0)
    return ErrnoStatus(errno, Cat("watch `", root, "`"));
  return OpenWatch(std::move(fd));
}

void OpenWatch::Drain() {
  alignas(fanotify_event_metadata) char buffer[16384];
  while (true) {
    ssize_t size = read(fd_.get(), buffer, sizeof buffer);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return;
    for (auto* event = reinterpret_cast<fanotify_event_metadata*>(buffer); FAN_EVENT_OK(event, size);
         event = FAN_EVENT_NEXT(event, size)) {
      if (event->fd < 0) continue;  // FAN_Q_OVERFLOW
      const Fd opened(event->fd);
      char path[4096];
      const ssize_t length = readlink(Cat("/proc/self/fd/", event->fd).c_str(), path, sizeof path);
      if (length <= 0 || modules_.size() >= kMaxModules) continue;
      std::string module = ModuleOfFile({path, static_cast<size_t>(length)});
      if (!module.empty() && std::find(modules_.begin(), modules_.end(), module) == modules_.end())
        modules_.push_back(std::move(module));
    }
  }
}

}  // namespace sock::zygote
