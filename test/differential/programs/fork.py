import os
pid = os.fork()
if pid == 0:
    print('child', os.getppid() > 0)
    raise SystemExit(3)
print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
