#include <absl/strings/numbers.h>

#include <csignal>
#include <map>

#include "cri/cri.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

// signal(7), names without "SIG".
const std::map<std::string, int>& Names() {
  static const auto* const names = new std::map<std::string, int>{
      {"ABRT", SIGABRT},     {"ALRM", SIGALRM},   {"BUS", SIGBUS},   {"CHLD", SIGCHLD}, {"CLD", SIGCHLD},
      {"CONT", SIGCONT},     {"FPE", SIGFPE},     {"HUP", SIGHUP},   {"ILL", SIGILL},   {"INT", SIGINT},
      {"IO", SIGIO},         {"IOT", SIGIOT},     {"KILL", SIGKILL}, {"PIPE", SIGPIPE}, {"POLL", SIGPOLL},
      {"PROF", SIGPROF},     {"PWR", SIGPWR},     {"QUIT", SIGQUIT}, {"SEGV", SIGSEGV}, {"STKFLT", SIGSTKFLT},
      {"STOP", SIGSTOP},     {"SYS", SIGSYS},     {"TERM", SIGTERM}, {"TRAP", SIGTRAP}, {"TSTP", SIGTSTP},
      {"TTIN", SIGTTIN},     {"TTOU", SIGTTOU},   {"URG", SIGURG},   {"USR1", SIGUSR1}, {"USR2", SIGUSR2},
      {"VTALRM", SIGVTALRM}, {"WINCH", SIGWINCH}, {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ}, {"RTMIN", SIGRTMIN},
      {"RTMAX", SIGRTMAX}};
  return *names;
}

}  // namespace

absl::StatusOr<int> ParseSignal(const std::string& text) {
  if (text.empty()) return SIGTERM;
  const absl::Status unknown = absl::InvalidArgumentError(Cat("stop_signal `", text, "` is not a signal"));
  int number = 0;
  if (absl::SimpleAtoi(text, &number)) {
    if (number < 1 || number > SIGRTMAX) return unknown;
    return number;
  }
  std::string name = text;
  for (char& c : name) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  if (name.rfind("SIG", 0) == 0) name.erase(0, 3);
  int offset = 0;
  if (size_t at = name.find_first_of("+-"); at != std::string::npos) {
    // "RTMIN+3", "RTMAX-3"
    if (!absl::SimpleAtoi(name.substr(at + 1), &offset) || offset < 0) return unknown;
    if (name[at] == '-') offset = -offset;
    name.erase(at);
    if (!(name == "RTMIN" && offset >= 0) && !(name == "RTMAX" && offset <= 0)) return unknown;
  }
  auto it = Names().find(name);
  if (it == Names().end()) return unknown;
  const int signal = it->second + offset;
  if (offset != 0 && (signal < SIGRTMIN || signal > SIGRTMAX)) return unknown;
  return signal;
}

absl::StatusOr<int> FromApiSignal(api::Signal signal) {
  if (signal == api::SIGNAL_RUNTIME_DEFAULT) return 0;
  std::string name = api::Signal_Name(signal);  // "SIGNAL_SIGRTMINPLUS3"
  if (name.rfind("SIGNAL_", 0) != 0) {
    return absl::InvalidArgumentError(Cat("stop_signal ", static_cast<int>(signal), " is not a signal"));
  }
  name.erase(0, 7);
  if (size_t at = name.find("PLUS"); at != std::string::npos) name.replace(at, 4, 1, '+');
  if (size_t at = name.find("MINUS"); at != std::string::npos) name.replace(at, 5, 1, '-');
  return ParseSignal(name);
}

api::Signal ToApiSignal(int number) {
  static const auto* const known = [] {
    auto* map = new std::map<int, api::Signal>;
    for (int i = api::Signal_MIN; i <= api::Signal_MAX; ++i) {
      if (i == api::SIGNAL_SIGCLD || i == api::SIGNAL_SIGIOT || i == api::SIGNAL_SIGPOLL)
        continue;  // aliases
      auto parsed = FromApiSignal(static_cast<api::Signal>(i));
      if (parsed.ok() && *parsed) map->emplace(*parsed, static_cast<api::Signal>(i));
    }
    return map;
  }();
  auto it = known->find(number);
  return it == known->end() ? api::SIGNAL_RUNTIME_DEFAULT : it->second;
}

}  // namespace sock::cri
