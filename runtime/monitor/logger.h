// The log writer: a process of its own, so that neither a slow disk nor a chatty container holds up the
// monitor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sock::runtime::monitor {

// A container's output as the CRI's log format has it (kubernetes, pkg/kubelet/cri/remote/logs.go reads it):
// "TIME STREAM TAG TEXT\n", where TIME is RFC 3339 with nanoseconds, STREAM stdout or stderr, and TAG F for a
// line's end, P for a part of one.
class LineCutter {
 public:
  static constexpr size_t kMaxLine = 16 << 10;
  explicit LineCutter(std::string_view stream) : stream_(stream) {}
  // Takes output in and appends whole records, of at most kMaxLine bytes of text each, to `log`.
  void Feed(std::string_view data, int64_t now_ns, std::string& log);
  // At end of file: what has no newline.
  void Finish(int64_t now_ns, std::string& log);

 private:
  void Record(std::string_view text, bool whole, int64_t now_ns, std::string& log);
  std::string stream_, pending_;
};

// Serves LogCommands from `channel`. Never blocks on a log's disk while it reads pipes: what exceeds the
// queue is dropped and counted in a line of the log. After FINISH it reads all pipes to their end. When the
// channel ends without it, the monitor has died, and the next one's log writer reads on: this one writes what
// it has read and ends; but where neither the monitor's process nor the `keeper` lives on it reads to the
// end, since nobody else will.
[[noreturn]] void RunLogger(int channel, pid_t keeper);

}  // namespace sock::runtime::monitor
