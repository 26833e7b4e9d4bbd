"""A monitor in Python for the tests: it starts a Zygote and speaks zygote/protocol.md with it."""
import ctypes
import os
import signal
import socket
import sys

HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'zygote.py')


def adopt():
    """What a Zygote forks becomes a child of this process (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def pack(op, *fields):
    return b''.join(os.fsencode(str(part)) + b'\0' for pair in (('op', op),) + fields for part in pair)


def unpack(message):
    parts = [os.fsdecode(p) for p in message.split(b'\0')[:-1]]
    return list(zip(parts[::2], parts[1::2]))


class Zygote:
    """A Zygote, as the monitor has it. With modules it has them loaded and can be forked, or this raises."""

    def __init__(self, python, environment, modules, cwd='/', two_forks=False, output=None):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.serial = 0
        with open(HELPER) as f:
            source = f.read()
        if two_forks:  # as on a machine that the relay is not written for
            source = source.replace("RELAY = bytes.fromhex({'x86_64'", "RELAY = bytes.fromhex({'none'")
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                fd = os.dup(theirs.fileno())
                null = os.open('/dev/null', os.O_RDWR)
                for n in (0, 1):
                    os.dup2(null, n)
                if output is not None:
                    os.dup2(output, 1)
                os.dup2(fd, 3)
                os.closerange(4, 256)
                for n in range(1, signal.NSIG):
                    try:
                        signal.signal(n, signal.SIG_DFL)
                    except (OSError, ValueError):
                        pass
                os.execve(python, [python, '-c', source], dict(e.split('=', 1) for e in environment))
            finally:
                os._exit(127)
        theirs.close()
        if modules is None:
            return
        self.ask('hello')
        answer = self.ask('load', *[('module', m) for m in modules])
        if ('forkable', 'yes') not in answer:
            raise RuntimeError('the Zygote cannot be forked: %s' % answer)
        for key, value in answer:
            if key == 'missing':
                raise RuntimeError('not loaded: ' + value)

    def ask(self, op, *fields, fds=()):
        self.serial += 1
        socket.send_fds(self.socket, [pack(op, ('serial', self.serial), *fields)], list(fds))
        answer = unpack(self.socket.recv(200000))
        if not answer or answer[0][1] == 'failed':
            raise RuntimeError('%s: %s' % (op, answer))
        return answer

    def park(self, enter=(), fds=()):
        """A parked process: its pid, as the kernel tells it, and its channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.ask('fork', *[('enter', e) for e in enter], fds=[theirs.fileno()] + list(fds))
        theirs.close()
        message, control, _, _ = ours.recvmsg(1000, 64)
        if message != pack('parked'):
            raise RuntimeError('not parked: %r' % message)
        return int.from_bytes(control[0][2][:4], sys.byteorder), ours

    def program(self, argv, environment, cwd, stdio, comm=None, extra=(), fds=(), parked=None, mounts=None):
        """A program up to the moment where it may go: its pid, its channel and the answer to `become`."""
        pid, channel = parked or self.park()
        fields = [('arg', a) for a in argv] + [('env', e) for e in environment] + command(argv)
        fields += [('cwd', cwd), ('umask', 0o022)] + ([('comm', comm)] if comm else []) + list(extra)
        if mounts is not None:
            fields.append(('mount_ns', 1))
        socket.send_fds(channel, [pack('become', *fields)], list(stdio) + list(fds))
        if mounts is not None:
            socket.send_fds(channel, [pack('enter')], [mounts])
        return pid, channel, unpack(channel.recv(200000))

    def end(self):
        self.socket.close()
        os.waitpid(self.pid, 0)


def command(argv):
    """What the monitor tells of a command line `python [-u] [-B] (FILE | -m NAME | -c TEXT) ...`."""
    rest, fields = list(argv[1:]), []
    while rest and rest[0] in ('-u', '-B'):
        fields.append(('option', rest.pop(0)))
    mode = {'-m': 'module', '-c': 'command'}.get(rest[0])
    if mode:
        rest.pop(0)
    fields += [('mode', mode or 'script'), ('target', rest.pop(0))]
    return fields + [('argument', a) for a in rest]
