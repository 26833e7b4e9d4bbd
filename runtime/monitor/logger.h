// The log writer: a process of its own, so that neither a slow disk nor a chatty container holds up the
// monitor.
#pragma once

#include <sys/types.h>

#include "runtime/base/fd.h"

namespace sock::runtime::monitor {

// Serves LogCommands from `channel`; `desk`: of Desk::MakePipe, the same for every log writer of a monitor
// and of those after it. Begins once no other has the desk, and goes on with what that had in hand
// (log_queue.h). Never blocks on a log's disk while it reads pipes: what exceeds the queue is dropped and
// counted in a line of the log. After FINISH it reads all pipes to their end. When the channel ends without
// it, the monitor has died, and the next one's log writer goes on; but where neither the monitor's process
// nor the `keeper` lives this one reads to the end, since nobody else will.
[[noreturn]] void RunLogger(int channel, pid_t keeper, Pipe desk);

}  // namespace sock::runtime::monitor
