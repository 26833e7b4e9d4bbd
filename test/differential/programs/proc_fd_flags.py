import fcntl, os
for fd in range(3):
    print(fcntl.fcntl(fd, fcntl.F_GETFD), fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)
