import os
pid = os.posix_spawn('/bin/sh', ['sh', '-c', 'echo $0 $V; exit 3'], {'V': 'v'})
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
