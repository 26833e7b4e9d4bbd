// A container's output, in pieces of any size, as the log writer cuts it: nothing is lost, each record well
// formed.
#include "runtime/monitor/log_queue.h"
#include "test/fuzz/fuzz.h"

using sock::runtime::monitor::LineCutter;

FUZZ(log) {
  // The first byte says how large the pieces are.
  const size_t piece = input.empty() ? 1 : 1 + static_cast<uint8_t>(input[0]) * 97;
  LineCutter cutter("stdout");
  std::string log, text;
  for (size_t at = 0; at < input.size(); at += piece)
    cutter.Feed(input.substr(at, piece), 1700000000123456789, log);
  cutter.Finish(1700000000123456789, log);
  constexpr std::string_view kHead = "2023-11-14T22:13:20.123456789Z stdout ";
  for (std::string_view rest = log; !rest.empty();) {
    CHECK(rest.starts_with(kHead));
    rest.remove_prefix(kHead.size());
    CHECK(rest.starts_with("F ") || rest.starts_with("P "));
    const bool whole = rest[0] == 'F';
    const size_t end = rest.find('\n');
    CHECK(end != std::string_view::npos && end - 2 <= LineCutter::kMaxLine);
    text += rest.substr(2, end - 2);
    if (whole) text += '\n';
    rest.remove_prefix(end + 1);
  }
  CHECK(text == input);
}
