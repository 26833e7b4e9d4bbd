"""The helper inside a Python Zygote: it speaks zygote/protocol.md on descriptor 3.

Started as `python -c SOURCE`. CPython 3.9 to 3.14, glibc and musl. What a program sees of it is nothing, as far as that
can be had: the source runs a second time in a namespace of its own, so that `__main__` stays as the interpreter made it;
the modules that only the helper needs are taken out of sys.modules again; the program is run by the very functions of
the interpreter's own main, with no frame below it. docs/zygotes.md says what remains.
"""
if __name__ == '__main__':
    _first = dict(globals())
    _first['__doc__'] = None

import sys
if __name__ == '__main__':
    _plain_modules = set(sys.modules) - {'linecache'}  # what any start has loaded before the program
    _path0 = sys.path[:1] == [''] and not sys.flags.isolated and not getattr(sys.flags, 'safe_path', False)
    if _path0:
        del sys.path[0]  # `-c` puts the working directory there: the Zygote's is nobody's
        sys.path_importer_cache.pop(sys.modules['os'].getcwd(), None)

import os
import _signal
import _socket
import gc
import time
if __name__ == '__main__':
    def _load_ctypes():
        """Since 3.4, libffi maps the code of callbacks from its own file, which it keeps open: no program may have that.

        Where it can open nothing at its first callback, it takes memory of its own for them.
        """
        import resource
        bootstrap = sys.modules['_frozen_importlib']
        spec = bootstrap._find_spec('_ctypes', None)
        module = bootstrap.module_from_spec(spec)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            spec.loader.exec_module(module)  # from 3.14 on the first one is made here
            type('Callback', (module.CFuncPtr,), {'_flags_': 1, '_argtypes_': (), '_restype_': None})(int)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sys.modules['_ctypes'] = module
    _load_ctypes()
import _ctypes

CONTROL, MESSAGE, DESCRIPTORS = 3, 150000, 32
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
NAMESPACES = {'user': NEWUSER, 'net': NEWNET, 'ipc': NEWIPC, 'uts': NEWUTS, 'pid': NEWPID}
# System calls: x86-64, and the generic table (arm64, riscv64).
CALLS = {'x86_64': {'capget': 125, 'capset': 126, 'keyctl': 250, 'seccomp': 317, 'brk': 12, 'setns': 308, 'unshare': 272,
                    'setgroups': 116, 'setresgid': 119, 'setresuid': 117, 'rseq': 334, 'mprotect': 10, 'munmap': 11,
                    'mmap': 9, 'pwrite64': 18}}.get(
    os.uname().machine, {'capget': 90, 'capset': 91, 'keyctl': 219, 'seccomp': 277, 'brk': 214, 'setns': 268, 'unshare': 97,
                         'setgroups': 159, 'setresgid': 149, 'setresuid': 147})
CLOSE_RANGE = 436
PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME, PR_CAPBSET_READ, PR_CAPBSET_DROP = 4, 8, 15, 23, 24
PR_SET_MM, PR_SET_MM_MAP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 35, 14, 38, 47
EPERM, EDQUOT, ENOSYS = 1, 122, 38
CAP_SYS_ADMIN = 21
# zygote/python/relay_x86_64.s, assembled.
RELAY = bytes.fromhex({'x86_64': (
    '535541544155415641574883ec084889fb48896308b838000000bf11410000488b3331d24531d24531c00f054885c0740f4883c408415f41'
    '5e415d415c5d5bc34c8d6b304c8b63184d85e4742d498b4500498b7d08498b7510498b55184d8b55204d8b45284d8b4d300f05493b453875'
    '1b4983c54049ffccebceff531085c0741a780931ffb8e70000000f054c89632048894328bf01000000ebea488b630831c0eb8e0000000000'
    '00000000000000004881fe0000010072154889f0f0480fc1074801f0483b470877044829f0c3ff6710')}.get(
        os.uname().machine, ''))
# Set while modules are imported, so that these start no thread that a child would lack: NumExpr's pool, and what purges
# the heap of Arrow's own copy of jemalloc. Pools that are made when first used (OpenMP, MKL, Rayon, Numba) need nothing,
# and OpenBLAS ends its threads by itself before a fork.
WHILE_IMPORTING = {'NUMEXPR_NUM_THREADS': '1', 'JE_ARROW_MALLOC_CONF': 'background_thread:false'}


# ---- C, without the package ctypes: that would stay behind as a module, with state.

class Long(_ctypes._SimpleCData):
    _type_ = 'l'


class Int(_ctypes._SimpleCData):
    _type_ = 'i'


class Word(_ctypes._SimpleCData):
    _type_ = 'L'


class Pointer(_ctypes._SimpleCData):
    _type_ = 'P'


class Object(_ctypes._SimpleCData):
    _type_ = 'O'


class Function(_ctypes.CFuncPtr):
    _flags_ = 1 | 8  # C's calling convention, errno kept
    _restype_ = Long


class PythonFunction(_ctypes.CFuncPtr):
    _flags_ = 1 | 4  # with the interpreter's lock held, its error raised
    _restype_ = Long


_program = _ctypes.dlopen(None, 0)


def c(name, *types, kind=Function, result=Long):
    f = kind(_ctypes.dlsym(_program, name))
    f.argtypes = types
    f.restype = result
    return f


syscall = c('syscall', Long, Long, Pointer, Pointer, Long, Long)
prctl_long = c('prctl', Long, Long, Long, Long, Long)
prctl_pointer = c('prctl', Long, Pointer, Long, Long, Long)
prctl_map = c('prctl', Long, Long, Pointer, Long, Long)
mmap = c('mmap', Pointer, Long, Long, Long, Long, Long)
memmove = c('memmove', Long, Pointer, Long)
fopen = c('fopen', Pointer, Pointer)
libc_unshare = c('unshare', Long)
libc_setns = c('setns', Long, Long)
thread_state = c('PyThreadState_Get', kind=PythonFunction)
before_fork = c('PyOS_BeforeFork', kind=PythonFunction, result=None)
after_fork_parent = c('PyOS_AfterFork_Parent', kind=PythonFunction, result=None)
after_fork_child = c('PyOS_AfterFork_Child', kind=PythonFunction, result=None)
get_importer = c('PyImport_GetImporter', Object, kind=PythonFunction, result=Object)
call_object = c('PyObject_CallObject', Object, Object, kind=PythonFunction, result=Object)
run_string = c('PyRun_SimpleStringFlags', Pointer, Pointer, kind=PythonFunction, result=Int)
run_file = c('PyRun_AnyFileExFlags', Long, Pointer, Long, Pointer, kind=PythonFunction, result=Int)


class Failed(Exception):
    """A step that could not be done: what `op failed` tells."""

    def __init__(self, step, errno=0, text=''):
        self.step, self.errno, self.text = step, errno, text

    def fields(self):
        return [('step', self.step), ('errno', self.errno), ('text', self.text)]


def checked(step, what, result):
    if result & 0x80000000:  # an int of C's, -1
        e = _ctypes.get_errno()
        raise Failed(step, e, '%s: %s' % (what, os.strerror(e)))
    return result


def trying(step, what, f, *arguments):
    try:
        return f(*arguments)
    except OSError as e:
        raise Failed(step, e.errno or 0, '%s: %s' % (what, os.strerror(e.errno or 0))) from None


# ---- messages

def encode(value):
    return value if isinstance(value, bytes) else os.fsencode(str(value))


def pack(op, fields):
    parts = [b'op', encode(op)]
    for name, value in fields:
        parts += [encode(name), encode(value).replace(b'\0', b'?')]
    return b'\0'.join(parts) + b'\0'


def unpack(message):
    """The fields of a message as a dict of lists; the order of names that repeat is kept."""
    parts = message.split(b'\0')
    if len(parts) % 2 == 0 or parts[-1] or parts[0] != b'op':
        raise Failed('protocol', 0, 'malformed message')
    fields = {}
    for i in range(0, len(parts) - 1, 2):
        fields.setdefault(os.fsdecode(parts[i]), []).append(parts[i + 1])
    return fields


def text(fields, name, otherwise=None):
    values = fields.get(name)
    if values is None:
        if otherwise is None:
            raise Failed('protocol', 0, 'field `%s` is missing' % name)
        return otherwise
    return os.fsdecode(values[-1])


def number(fields, name, otherwise=None, base=10):
    value = text(fields, name, None if otherwise is None else str(otherwise))
    try:
        n = int(value, base)
    except ValueError:
        n = -1
    if n < 0:
        raise Failed('protocol', 0, 'field `%s`: %r is no number' % (name, value))
    return n


def receive(sock):
    """One message and its descriptors; (None, []) at the end."""
    message, control, flags, _ = sock.recvmsg(MESSAGE + 1, _socket.CMSG_SPACE(4 * DESCRIPTORS), _socket.MSG_CMSG_CLOEXEC)
    descriptors = []
    for level, kind, data in control:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            descriptors += [int.from_bytes(data[i:i + 4], sys.byteorder) for i in range(0, len(data) // 4 * 4, 4)]
    if not message:
        for fd in descriptors:
            os.close(fd)
        return None, []
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC) or len(message) > MESSAGE:
        for fd in descriptors:
            os.close(fd)
        raise Failed('protocol', 0, 'message is too long or has too many descriptors')
    return message, descriptors


def say(fd, op, fields=()):
    message = pack(op, fields)
    if len(message) > MESSAGE:
        message = pack('failed', [f for f in fields if f[0] == 'serial'] + Failed('protocol', 0, 'answer is too long').fields())
    os.write(fd, message)


# ---- the Zygote

class Zygote:
    def __init__(self):
        # Found once, in the Zygote: to look at an object is to write to its memory, a copied page for each program.
        self.drawn = []         # bit generators to seed anew
        self.mersenne = None    # of numpy's global one: where its words are, and how many bytes they take
        self.absent = []        # folders of sys.path that are not there
        self.tops = set()       # what is loaded beyond any start's own
        self.lists = []         # of functions that Python calls around a fork, and what else a program has in them
        self.control = _socket.socket(fileno=CONTROL)
        os.set_inheritable(CONTROL, False)
        self.loaded = []
        self.blas = []         # (openblas_get_num_threads(), the function that sets it) of each OpenBLAS
        self.processors = len(os.sched_getaffinity(0))
        self.written = {}      # what imports changed in the environment
        self.hooks = {'freeze': [], 'fork': []}
        self.started = dict(os.environ)
        self.stdio = [device(fd) for fd in range(3)]
        self.coerced = coerced()
        self.addresses = addresses()
        frame_slot()  # what is wrong with it shows here, not in a program
        self.collects = gc.isenabled()
        self.forking = forking()

    def serve(self):
        """Comes back only in what is to become a program, with its plan."""
        while True:
            try:
                message, descriptors = receive(self.control)
            except Failed as failure:
                say(CONTROL, 'failed', [('serial', 0)] + failure.fields())
                continue
            if message is None:
                os._exit(0)
            serial = b'0'
            try:
                fields = unpack(message)
                serial = fields.get('serial', [b'0'])[-1]
                op = text(fields, 'op')
                if op == 'fork':
                    plan = self.fork(fields, descriptors)
                    if plan is not None:
                        descriptors = []
                        return plan
                    answer = ('forked', [])
                elif op == 'load':
                    answer = ('loaded', self.load([os.fsdecode(m) for m in fields.get('module', [])]))
                elif op == 'probe':
                    answer = ('installed', self.probe())
                elif op == 'hello':
                    answer = ('hello', [('version', 1), ('runtime', '%s-%d.%d.%d' % (
                        (sys.implementation.name,) + sys.version_info[:3])), ('build', sys.version)])
                else:
                    raise Failed('protocol', 0, 'unknown request `%s`' % op)
                op, fields = answer
            except Failed as failure:
                op, fields = 'failed', failure.fields()
            finally:
                for fd in descriptors:
                    os.close(fd)
            say(CONTROL, op, [('serial', serial)] + fields)

    # probe

    def probe(self):
        """In a child, since importlib.metadata brings much along."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read)
                lines = packages()
                with open(write, 'wb') as out:
                    out.write('\n'.join(lines).encode('utf-8', 'surrogateescape'))
                os._exit(0)
            except BaseException as e:
                os.write(2, ('probe: %r\n' % (e,)).encode('utf-8', 'replace'))
            os._exit(1)
        os.close(write)
        with open(read, 'rb') as source:
            lines = source.read()
        if os.waitpid(pid, 0)[1]:
            raise Failed('probe', 0, 'cannot list the installed packages')
        return [('package', line) for line in lines.split(b'\n') if line]

    # load

    def load(self, modules):
        begin = time.monotonic()
        before = state()
        put_back(self.lists)  # of an earlier load
        self.hook_module()
        gc.disable()
        ours = {name: value for name, value in WHILE_IMPORTING.items() if name not in os.environ}
        # Matplotlib writes to the user's folders when it is imported: not here, where they are not.
        folder = '%s/zygote-%d' % (os.environ.get('TMPDIR') or '/tmp', os.getpid())
        ours['MPLCONFIGDIR'] = folder
        kept = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        while_importing = dict(os.environ)
        missing, loaded = [], []
        output = Output()
        self.forking.set_aside()
        for name in modules:
            try:
                __import__(name)
                loaded.append(name)
            except BaseException as e:
                missing.append('%s %s: %s' % (name, type(e).__name__, e))
        self.forking.give_back()
        reason = output.end()
        for name in set(while_importing) | set(os.environ):
            now = os.environ.get(name)
            if now != while_importing.get(name):
                self.written[name] = now
        for name, value in kept.items():
            if name not in self.written:
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        remove(folder)
        self.loaded += loaded
        for hook in self.hooks['freeze']:
            try:
                hook()
            except BaseException as e:
                reason = reason or 'a before_freeze hook raised %s: %s' % (type(e).__name__, e)
        self.blas = openblas()
        end_pools()
        forget_settings()
        gc.collect()
        self.drawn, self.mersenne, self.absent = drawn(), mersenne(), forget_folders()
        self.tops = {name.partition('.')[0] for name in sys.modules} - {name.partition('.')[0] for name in _plain_modules}
        self.tops -= {'cri_sock', '__main__', 'linecache'}
        self.lists = without_locks()
        fill_holes()
        gc.freeze()
        reason = leftovers(before, bool(modules)) or reason
        if not reason:  # a thread that is left may write to the heap
            self.forking.settle()
        answer = [('module', m) for m in loaded] + [('missing', m) for m in missing]
        answer.append(('forkable', 'no' if reason else 'yes'))
        if reason:
            answer.append(('reason', reason))
        return answer + [('milliseconds', int((time.monotonic() - begin) * 1000))]

    def hook_module(self):
        if 'cri_sock' in sys.modules:
            return
        module = type(sys)('cri_sock', 'Hooks of a Zygote; absent where a program is started plainly.')
        hooks = self.hooks

        def before_freeze(function):
            """Calls `function` in the Zygote once its packages are loaded."""
            hooks['freeze'].append(function)
            return function

        def after_fork(function):
            """Calls `function` in each program forked from this Zygote, before the program runs."""
            hooks['fork'].append(function)
            return function

        module.before_freeze, module.after_fork = before_freeze, after_fork
        sys.modules['cri_sock'] = module

    # fork

    def fork(self, fields, descriptors):
        """None in the Zygote; in the process that became a container, what to run."""
        if not descriptors:
            raise Failed('protocol', 0, 'fork: no descriptor came')
        enter = [os.fsdecode(name) for name in fields.get('enter', [])]
        if len(enter) != len(descriptors) - 1:
            raise Failed('protocol', 0, 'fork: %d descriptors for `enter` came, %d are named' % (
                len(descriptors) - 1, len(enter)))
        for name in enter:
            if name not in NAMESPACES:
                raise Failed('protocol', 0, 'fork: unknown namespace `%s`' % name)
        if enter and enter[0] != 'user':
            raise Failed('protocol', 0, 'fork: the first to enter is `user`')
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        if self.forking.fork(entrance(enter, descriptors[1:])):
            return None
        try:
            return self.park(descriptors[0], descriptors[1:])
        except BaseException as e:
            os.write(2, ('zygote: %r\n' % (e,)).encode('utf-8', 'replace'))
        os._exit(255)

    # the parked process

    def park(self, channel, others):
        self.control.detach()
        os.close(CONTROL)
        for fd in others:
            os.close(fd)
        sock = _socket.socket(fileno=channel)
        say(channel, 'parked')
        try:
            message, descriptors = receive(sock)
            if message is None:
                os._exit(0)
            plan = Plan(self, unpack(message), descriptors)
            plan.prepare(channel)
            if plan.mount_ns:
                message, descriptors = receive(sock)
                if message is None:
                    os._exit(0)
                plan.enter(unpack(message), descriptors)
            plan.become()
        except Failed as failure:
            say(channel, 'failed', failure.fields())
            os._exit(1)
        except OSError as e:
            say(channel, 'failed', Failed('helper', e.errno or 0, str(e)).fields())
            os._exit(1)
        os.write(channel, pack('ready', ()))
        message = os.read(channel, 4096)
        if not message or unpack(message)['op'] != [b'go']:
            os._exit(0)
        sock.detach()
        os.close(channel)
        return plan


def entrance(enter, descriptors):
    """The system calls by which an intermediate process gets where the new one is to be born: what each does, and itself."""
    calls = [('enter %s namespace' % name, CALLS['setns'], fd, NAMESPACES[name], 0, 0) for name, fd in zip(enter, descriptors)]
    if enter and 'pid' not in enter:
        calls.append(('make pid namespace', CALLS['unshare'], NEWPID, 0, 0, 0))
    if enter:
        calls += [('drop supplementary groups', CALLS['setgroups'], 0, 0, 0, 0),
                  ('become group 0', CALLS['setresgid'], 0, 0, 0, 0), ('become user 0', CALLS['setresuid'], 0, 0, 0, 0)]
    return calls


class Twice:
    """By two forks: the first enters, the second is born there."""

    def set_aside(self):
        """Nothing, as give_back() and settle(): see Relay."""

    give_back = settle = set_aside

    def fork(self, calls):
        """Nothing in the new process; in the Zygote True, once the intermediate one has been reaped. Raises Failed there."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read)
                for what, call, *arguments in calls:
                    checked('enter', what, syscall(call, *arguments, 0))
                if trying('fork', 'fork', os.fork):
                    os._exit(0)
                os.close(write)
                return False
            except Failed as failure:
                os.write(write, pack('', failure.fields()))
            except BaseException as e:
                os.write(write, pack('', Failed('fork', 0, repr(e)).fields()))
            os._exit(1)
        os.close(write)
        try:
            if reaped(pid):
                told = os.read(read, 4096)
                if told:
                    told = unpack(told)
                    raise Failed(text(told, 'step'), number(told, 'errno'), text(told, 'text'))
        finally:
            os.close(read)
        return True


class Relay:
    """By one fork: to copy the memory of a Zygote and to end the copy is most of what a fork costs.

    The intermediate process shares the Zygote's memory, as vfork(2) has it; it calls the C library's own fork(3), and the
    new process goes on where the Zygote waits. It has no Python of its own, but the few instructions of relay_x86_64.s.
    """
    SIZE, CODE, ARENA = 256 << 10, 4096, 176  # code, then what it is given, then its stack; of its code the second part
    ARENAS = 256 << 20  # addresses, of which imports take what they need

    def __init__(self):
        self.at = mmap(None, self.SIZE, 3, 0x22, -1, 0)  # readable, writable; private, anonymous
        if self.at in (0, -1):
            raise Failed('relay', _ctypes.get_errno(), 'map memory')
        memmove(self.at, RELAY, len(RELAY))
        checked('relay', 'protect memory', syscall(CALLS['mprotect'], self.at, self.CODE, 5, 0, 0))  # readable, executable
        self.enter = PythonFunction(self.at)
        self.enter.argtypes = (Long,)
        self.errno = Function(_ctypes.dlsym(_program, '__errno_location'))
        self.errno.restype = Pointer
        self.before = []
        self.allocator = None  # the interpreter's own, while it is another
        try:
            # rseq(2): a process that shares memory begins without; what it forks has what it has.
            if Int.from_address(_ctypes.dlsym(_program, '__rseq_size')).value:
                area = c('pthread_self', result=Word)() + Long.from_address(_ctypes.dlsym(_program, '__rseq_offset')).value
                self.before = [('keep rseq', CALLS['rseq'], area, 32, 0, 0x53053053)]
        except OSError:
            pass  # a C library without

    def give(self, function, calls):
        """What the relay is to do: calls of a number, up to six arguments and the result that is expected."""
        words = [self.at + self.SIZE, 0, _ctypes.dlsym(_program, function), len(calls), 0, 0]
        for *call, result in calls:
            words += (call + [0] * 6)[:7] + [result]
        given = b''.join(w.to_bytes(8, sys.byteorder) for w in words)
        memmove(self.at + self.CODE, given, len(given))

    def fork(self, calls):
        """As Twice.fork."""
        calls = self.before + calls
        self.give('fork', [call[1:] + (0,) for call in calls])
        before_fork()
        pid = self.enter(self.at + self.CODE)
        if pid == 0:
            after_fork_child()
            syscall(CALLS['munmap'], self.at, self.SIZE, 0, 0, 0)
            return False
        errno = Int.from_address(self.errno()).value
        after_fork_parent()
        if pid < 0:
            raise Failed('fork', -pid, 'fork: ' + os.strerror(-pid))
        if reaped(pid):
            left, result = (Long.from_address(self.at + self.CODE + at).value for at in (32, 40))
            if left:
                raise Failed('enter', -result, '%s: %s' % (calls[-left][0], os.strerror(-result)))
            raise Failed('fork', errno, 'fork: ' + os.strerror(errno))
        return True

    def set_aside(self):
        """Lets the interpreter's arenas come from a part of the C library's heap, so that they get into its file.

        munmap(2) ends them as before. malloc(3) knows that sbrk(2) is called by others too, but by one thread.
        """
        try:
            c('gnu_get_libc_version')  # musl's sbrk(3) gives nothing
            sbrk = c('sbrk', Long, result=Word)
            get, put = c('PyObject_GetArenaAllocator', Pointer, result=None), arena_allocator()
        except OSError:
            return
        if sbrk(0) & 4095 or len(os.listdir('/proc/self/task')) > 1:
            return
        begin = sbrk(self.ARENAS)
        if begin == (1 << 64) - 1:
            return
        self.allocator = bytes(24)  # a word for the functions, what makes an arena, what ends one
        get(self.allocator)
        self.aside = b''.join(w.to_bytes(8, sys.byteorder) for w in (begin, begin + self.ARENAS)) + self.allocator[8:16]
        words = address_of(self.aside), self.at + self.ARENA
        put(b''.join(w.to_bytes(8, sys.byteorder) for w in words) + self.allocator[16:])

    def give_back(self):
        """Ends what set_aside() began; what no arena took is given back."""
        if self.allocator is None:
            return
        arena_allocator()(self.allocator)
        free, end = (int.from_bytes(self.aside[at:at + 8], sys.byteorder) for at in (0, 8))
        if free < end:
            syscall(CALLS['munmap'], free, end - free, None, 0, 0)
        self.allocator = None

    def settle(self):
        """Puts the heap into a sealed file in memory, mapped privately: of a file, a fork copies no page tables.

        Only the heap: what grows by mremap(2), as large pieces of malloc's, must be no part of a file. By steps, as memory
        may be limited. The relay does it, as nothing of the heap may change between a step's copy and its mapping.
        """
        try:
            file = os.memfd_create('heap', 3)  # closed at exec, may be sealed
        except OSError:
            return
        try:
            pieces = []
            with open('/proc/self/maps', 'rb') as maps:
                for line in maps:
                    where = line.split(None, 5)
                    if where[1] == b'rw-p' and where[-1] == b'[heap]\n':
                        pieces.append([int(at, 16) for at in where[0].split(b'-')])
            if pieces:
                pieces[0][0] += 4096  # so that there is a [heap] still: its end may be taken off
            size, calls = sum(end - at for at, end in pieces), []
            step = max(1 << 20, (size // 200 + 4095) & -4096)
            offset = 0
            for at, end in pieces:
                while at < end:
                    n = min(step, end - at)
                    calls += [(CALLS['pwrite64'], file, at, n, offset, n),
                              (CALLS['mmap'], at, n, 3, 0x12, file, offset, at)]
                    at += n
                    offset += n
            if 0 < len(calls) < 1000:
                self.give('getpid', calls)  # and no fork
                pid = self.enter(self.at + self.CODE)
                if pid > 0:
                    reaped(pid)  # a step that failed was the last: the heap is what it was, in one or the other
            punch(file, offset)
            checked('heap', 'seal the heap', c('fcntl', Long, Long, Long)(file, 1033, 15))  # F_ADD_SEALS: nobody writes to it
        finally:
            os.close(file)


def punch(file, size):
    """Takes the pages of zeros out of a file: what the heap had not used, or given back, would have memory in it."""
    try:
        fallocate = c('fallocate', Long, Long, Long, Long)
    except OSError:
        return
    zeros = bytes(4096)
    for offset in range(0, size, 1 << 20):
        data = os.pread(file, 1 << 20, offset)
        begin = None
        for at in range(0, len(data) + 4096, 4096):
            if data[at:at + 4096] == zeros:
                begin = at if begin is None else begin
            elif begin is not None:
                fallocate(file, 3, offset + begin, at - begin)  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                begin = None


def arena_allocator():
    return c('PyObject_SetArenaAllocator', Pointer, result=None)


def forking():
    if RELAY:
        try:
            return Relay()
        except Failed:
            pass  # where no memory may become executable
    return Twice()


def reaped(pid):
    """Whether the intermediate process says that it failed."""
    status = trying('fork', 'wait for the intermediate process', os.waitpid, pid, 0)[1]
    if status not in (0, 256):
        raise Failed('fork', 0, 'the intermediate process ended with wait status %d' % status)
    return status


def packages():
    import importlib.metadata as metadata
    names = {}
    lines = []
    for distribution in metadata.distributions():
        name = distribution.metadata['Name']
        if not name or name in names:
            continue  # the first on sys.path is the one that an import finds
        names[name] = True
        modules = (distribution.read_text('top_level.txt') or '').split()
        if not modules:
            found = {}
            for file in distribution.files or ():
                first = file.parts[0]
                if first.endswith(('.dist-info', '.egg-info', '.data')) or first in ('..', '__pycache__'):
                    continue
                found[first.split('.')[0]] = True
            modules = list(found)
        lines.append(' '.join([name, distribution.version or '0'] + [m for m in modules if m.isidentifier()]))
    return sorted(lines)


class Output:
    """What imports print would be missing from the output of the program: descriptors 1 and 2 go into a file."""

    def __init__(self):
        self.file = None
        try:
            self.file = os.memfd_create('output')
            self.kept = [os.dup(1), os.dup(2)]
            flush()
            os.dup2(self.file, 1, False)
            os.dup2(self.file, 2, False)
        except OSError:
            self.file = None

    def end(self):
        if self.file is None:
            return ''
        flush()
        os.dup2(self.kept[0], 1)
        os.dup2(self.kept[1], 2)
        size = os.fstat(self.file).st_size
        first = os.pread(self.file, 200, 0)
        for fd in self.kept + [self.file]:
            os.close(fd)
        if not size:
            return ''
        os.write(2, first + b'\n')
        return 'the import writes to its output: %s' % first.decode('utf-8', 'replace').split('\n')[0]


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def scratch():
    temporary = os.environ.get('TMPDIR')
    return {d for d in ((temporary,) if temporary else ('/tmp', '/var/tmp')) + (os.environ.get('HOME'),) if d and d != '/'}


def files(folder):
    """The names below a folder, a few thousand at most."""
    found = set()
    stack = [folder]
    while stack and len(found) < 5000:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    found.add(entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
        except OSError:
            pass
    return found


def remove(folder):
    try:
        for parent, _, names in os.walk(folder, topdown=False):
            for name in names:
                os.unlink('%s/%s' % (parent, name))
            os.rmdir(parent)
    except OSError:
        pass  # leftovers() finds it


def links():
    found = {}
    for fd in os.listdir('/proc/self/fd'):
        try:
            found[int(fd)] = os.readlink('/proc/self/fd/' + fd)
        except OSError:
            pass
    return found


def state():
    everything = set()
    for folder in scratch():
        everything |= files(folder)
    return links(), everything, shared_mappings()


def shared_mappings():
    """What is mapped to be written to by all that share it: every program of a Zygote's would."""
    with open('/proc/self/maps', 'rb') as maps:
        mappings = [line.split(None, 5) for line in maps]
    return {where[-1].strip() for where in mappings if where[1][1:2] == b'w' and where[1][3:] == b's'}


def leftovers(before, imported):
    """Why nothing can be forked from here, or ''. Python itself sees no thread of a library's."""
    threads = os.listdir('/proc/self/task')
    if len(threads) > 1:
        names = []
        for thread in threads[1:4]:
            try:
                with open('/proc/self/task/%s/comm' % thread) as comm:
                    names.append(comm.read().strip())
            except OSError:
                pass
        return '%d threads beside the main one (%s)' % (len(threads) - 1, ', '.join(names))
    for fd, link in links().items():
        if before[0].get(fd) != link and not link.startswith('/proc/'):
            return 'descriptor %d left open: %s' % (fd, link)
    try:
        with open('/proc/self/task/%s/children' % threads[0]) as children:
            if children.read().strip():
                return 'a child process is left'
    except OSError:
        pass
    for mapping in shared_mappings() - before[2]:
        return 'shared memory is left: %s' % mapping.decode('utf-8', 'replace')
    now = set()
    for folder in scratch() if imported else ():
        now |= files(folder)
    new = sorted(now - before[1])
    if new:
        return 'files left behind: %s' % ', '.join(new[:3])
    return ''


def without_locks():
    """Takes threading's and logging's locks out of what Python does around a fork, until the program runs.

    In a process of one thread nobody holds them. To find that out costs each fork some 120 copied pages.
    """
    threading, logging = sys.modules.get('threading'), sys.modules.get('logging')
    if threading is not None and (len(threading._active) != 1 or threading._limbo):
        return []
    names = ('_acquireLock', '_prepareFork', '_releaseLock', '_afterFork', '_after_at_fork_child_reinit_locks')
    idle = [getattr(logging, name) for name in names if hasattr(logging, name)]
    if hasattr(threading, '_after_fork'):
        idle.append(threading._after_fork)
    lists = []
    for functions in gc.get_referrers(*idle) if idle else ():
        if type(functions) is list and functions is not idle and all(callable(f) for f in functions):
            lists.append((functions, functions[:]))
            functions[:] = [f for f in functions if not any(f is one for one in idle)]
    return lists


def put_back(lists):
    for functions, whole in lists:
        functions[:] = whole


def fill_holes():
    """Takes what memory is free between objects, so that what a program makes lies close together.

    An import leaves gaps all over its memory, and to use one copies its page. At most 8 MiB are taken.
    """
    take = c('PyObject_Malloc', Long, kind=PythonFunction, result=Word)
    give = c('PyObject_Free', Word, kind=PythonFunction, result=None)
    pool, left = 16384 if sys.version_info >= (3, 10) else 4096, 8 << 20
    for size in range(512, 0, -16):
        blocks, run, last = [], 0, 0  # a run from one pool, as long as that has blocks: it was whole, and no gap is left
        while run < (pool - 48) // size * 3 // 4 and left > 0:
            at = take(size)
            if at // pool != last // pool:
                blocks.clear()
                run = 0
            if size != 32:  # what numbers take themselves
                blocks.append(at)
            run += 1
            last = at
            left -= size
        for at in blocks:
            give(at)
    try:
        malloc, free = c('malloc', Long, result=Word), c('free', Word, result=None)
        trim, sbrk = c('malloc_trim', Long), c('sbrk', Long, result=Word)
    except OSError:
        return  # not glibc's
    trim(0)
    top = sbrk(0) - 8192
    for size in [1024 * n for n in (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)] + list(range(1032, 0, -16)):
        while left > 0:
            at = malloc(size)
            left -= size
            if not at or at >= top:
                free(at)
                break


def end_pools():
    """A fork for its own sake: what a library does before one, as OpenBLAS, which ends its threads until they are needed."""
    if len(os.listdir('/proc/self/task')) == 1:
        return
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    except Exception:
        pass  # threads are left, or a child


def openblas():
    """Each OpenBLAS there is (numpy and scipy bring their own, under names of their own): its number of threads, its setter."""
    found = []
    try:
        with open('/proc/self/maps', 'rb') as maps:
            paths = {line.split(None, 5)[5].rstrip(b'\n') for line in maps if b'openblas' in line}
    except OSError:
        return found
    for path in sorted(paths):
        for name in ('openblas_%s_num_threads', 'openblas_%s_num_threads64_', 'scipy_openblas_%s_num_threads',
                     'scipy_openblas_%s_num_threads64_'):
            try:
                library = _ctypes.dlopen(os.fsdecode(path), os.RTLD_NOLOAD | os.RTLD_NOW)
                number_ = Function(_ctypes.dlsym(library, name % 'get'))
                setter = Function(_ctypes.dlsym(library, name % 'set'))
            except OSError:
                continue
            number_.argtypes, setter.argtypes, setter.restype = (), (Long,), None
            found.append((number_() & 0x7fffffff, setter))
            break
    return found


def coerced():
    """PEP 538: LC_CTYPE that the interpreter itself put into its environment, which a plain start would do again."""
    value = os.environ.get('LC_CTYPE')
    if value is None:
        return None
    try:
        with open('/proc/self/environ', 'rb') as environ:
            if any(v.startswith(b'LC_CTYPE=') for v in environ.read().split(b'\0')):
                return None
    except OSError:
        pass
    return value


def addresses():
    """What PR_SET_MM_MAP wants to know: fields 26 to 28 and 45 to 51 of /proc/self/stat."""
    try:
        with open('/proc/self/stat', 'rb') as stat:
            fields = stat.read().rsplit(b')', 1)[1].split()
        return [int(fields[i - 3]) for i in (26, 27, 45, 46, 47, 28, 48, 49, 50, 51)]
    except (OSError, IndexError, ValueError):
        return None


# ---- becoming a container

class Plan:
    def __init__(self, zygote, fields, descriptors):
        self.zygote = zygote
        self.descriptors = descriptors
        if text(fields, 'op') != 'become':
            raise Failed('protocol', 0, '`become` was expected')
        self.mount_ns = number(fields, 'mount_ns', 0)
        self.cgroups = number(fields, 'cgroups', 0)
        self.cgroup_ns = number(fields, 'cgroup_ns', 0)
        if len(descriptors) != 3 + self.cgroups:
            raise Failed('protocol', 0, 'become: %d descriptors came' % len(descriptors))
        self.uid, self.gid = number(fields, 'uid', os.getuid()), number(fields, 'gid', os.getgid())
        self.groups = None
        if 'uid' in fields:
            self.groups = []
            for group in fields.get('group', []):
                self.groups.append(number({'group': [group]}, 'group'))
        for one in [self.uid, self.gid] + (self.groups or []):
            if one >= 0xffffffff:
                raise Failed('protocol', 0, 'become: %d is no id' % one)  # -1 would change nothing
        self.umask = number(fields, 'umask', 0o022)
        self.caps = {}
        for name in ('bounding', 'permitted', 'effective', 'inheritable', 'ambient'):
            if 'cap_' + name in fields:
                self.caps[name] = number(fields, 'cap_' + name, base=16)
        if self.caps and len(self.caps) != 5:
            raise Failed('protocol', 0, 'become: capability sets are missing')
        self.no_new_privs = number(fields, 'no_new_privs', 0)
        try:
            self.seccomp = bytes.fromhex(text(fields, 'seccomp', ''))
        except ValueError:
            raise Failed('protocol', 0, 'field `seccomp`: not hexadecimal') from None
        if len(self.seccomp) % 8:
            raise Failed('protocol', 0, 'field `seccomp`: not a multiple of 8 bytes')
        self.seccomp_flags = number(fields, 'seccomp_flags', 0)
        self.cwd = text(fields, 'cwd', '/')
        self.environment = fields.get('env', [])
        self.arguments = fields.get('arg', [])
        if not self.arguments:
            raise Failed('protocol', 0, 'field `arg` is missing')
        self.comm = fields.get('comm', [os.path.basename(self.arguments[0])])[-1]
        self.mode = text(fields, 'mode')
        if self.mode not in ('script', 'module', 'command'):
            raise Failed('protocol', 0, 'field `mode`: unknown mode `%s`' % self.mode)
        self.target = text(fields, 'target')
        self.argument = [os.fsdecode(a) for a in fields.get('argument', [])]
        self.options = [os.fsdecode(o) for o in fields.get('option', [])]
        for option in self.options:
            if option not in ('-u', '-B'):
                raise Failed('protocol', 0, 'field `option`: `%s` cannot be applied late' % option)

    def prepare(self, channel):
        """All that needs no mount, while the container's mounts are still being made."""
        stdio, cgroups = self.descriptors[:3], self.descriptors[3:]
        for fd in cgroups:
            trying('cgroup', 'enter cgroup', os.write, fd, b'0')
        try:
            os.setsid()
        except OSError:
            pass  # it leads its session already
        for number_, fd in enumerate(stdio):
            trying('stdio', 'set standard descriptor %d' % number_, os.dup2, fd, number_)
        if syscall(CALLS['keyctl'], 1, None, None, 0, 0) < 0 and _ctypes.get_errno() not in (ENOSYS, EDQUOT, EPERM):
            checked('keyring', 'make session keyring', -1)
        close_others(channel)
        self.descriptors = []
        os.umask(self.umask)
        self.state()

    def enter(self, fields, descriptors):
        if text(fields, 'op') != 'enter' or len(descriptors) != 1:
            raise Failed('protocol', 0, '`enter` with one descriptor was expected')
        checked('mount namespace', 'enter mount namespace', libc_setns(descriptors[0], NEWNS))
        os.close(descriptors[0])

    def become(self):
        """The rest: in the container's mounts, with its rights."""
        if self.cgroup_ns:
            checked('cgroup', 'make cgroup namespace', libc_unshare(NEWCGROUP))
        entered = True
        try:
            os.chdir(self.cwd)
        except OSError:
            entered = False
        self.credentials()
        if not entered:
            trying('cwd', 'enter working directory `%s`' % self.cwd, os.chdir, self.cwd)
        self.paths()
        checked('dumpable', 'set dumpable', prctl_long(PR_SET_DUMPABLE, 1, 0, 0, 0))
        if self.no_new_privs:
            checked('no_new_privs', 'set no_new_privs', prctl_long(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        if self.seccomp and self.no_new_privs and self.caps:
            self.capabilities(0)
        if self.seccomp:
            code = Pointer.from_param(self.seccomp)
            program = (len(self.seccomp) // 8).to_bytes(8, sys.byteorder) + address_of(self.seccomp).to_bytes(8, sys.byteorder)
            checked('seccomp', 'load seccomp filter', syscall(CALLS['seccomp'], 1, self.seccomp_flags, program, 0, 0))
            del code
        if self.caps and not (self.seccomp and self.no_new_privs):
            self.capabilities(0)

    def credentials(self):
        step = 'credentials'
        if self.caps:
            for cap in range(64):
                held = prctl_long(PR_CAPBSET_READ, cap, 0, 0, 0)
                if held & 0x80000000:
                    break  # past the kernel's last
                if held == 1 and not self.caps['bounding'] >> cap & 1:
                    checked(step, 'drop capability %d' % cap, prctl_long(PR_CAPBSET_DROP, cap, 0, 0, 0))
        if self.groups is None:
            return
        trying(step, 'set supplementary groups', os.setgroups, self.groups)
        checked(step, 'keep capabilities', prctl_long(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        trying(step, 'become group %d' % self.gid, os.setresgid, self.gid, self.gid, self.gid)
        trying(step, 'become user %d' % self.uid, os.setresuid, self.uid, self.uid, self.uid)
        checked(step, 'stop keeping capabilities', prctl_long(PR_SET_KEEPCAPS, 0, 0, 0, 0))
        if self.caps:
            # The kernel asks for CAP_SYS_ADMIN where a filter is loaded without no_new_privs.
            self.capabilities(1 << CAP_SYS_ADMIN if self.seccomp and not self.no_new_privs else 0)

    def capabilities(self, extra):
        """capabilities(7). The sets are cut to what this process has itself."""
        step = 'credentials'
        header = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)
        data = bytes(24)
        checked(step, 'read capabilities', syscall(CALLS['capget'], address_of(header), address_of(data), None, 0, 0))
        words = [int.from_bytes(data[i:i + 4], sys.byteorder) for i in range(0, 24, 4)]
        have = words[1] | words[4] << 32
        effective, permitted, inheritable = ((self.caps['effective'] | extra) & have,
                                             (self.caps['permitted'] | extra) & have, self.caps['inheritable'] & have)
        data = b''.join((s >> shift & 0xffffffff).to_bytes(4, sys.byteorder)
                        for shift in (0, 32) for s in (effective, permitted, inheritable))
        checked(step, 'set capabilities', syscall(CALLS['capset'], address_of(header), address_of(data), None, 0, 0))
        prctl_long(PR_CAP_AMBIENT, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL
        for cap in range(64):
            if (self.caps['ambient'] & permitted & inheritable) >> cap & 1:
                checked(step, 'raise ambient capability %d' % cap, prctl_long(PR_CAP_AMBIENT, 2, cap, 0, 0))

    def state(self):
        """The interpreter's state, as far as it can be set before the program may run and asks for no file."""
        command_line(self.zygote, self.arguments, self.environment, replace_environment(self.zygote, self.environment))
        checked('comm', 'set comm', prctl_pointer(PR_SET_NAME, self.comm[:15] + b'\0', 0, 0, 0))
        unbuffered = '-u' in self.options or not sys.flags.ignore_environment and bool(os.environ.get('PYTHONUNBUFFERED'))
        streams(unbuffered, self.zygote.stdio)
        if '-B' in self.options:
            forget_bytecode()
        put_back(self.zygote.lists)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        sys.argv[:] = [{'module': '-m', 'command': '-c'}.get(self.mode, self.target)] + self.argument
        if hasattr(sys, 'orig_argv'):
            sys.orig_argv[:] = [os.fsdecode(a) for a in self.arguments]
        fresh(self.zygote)
        # A module of its own: what gc.freeze() has seen is never collected, and a program's end is to collect it.
        main = type(sys)('__main__')
        main.__dict__.clear()
        main.__dict__.update(_first)
        sys.modules['__main__'] = main
        sys.modules.pop('cri_sock', None)

    def paths(self):
        """What the container's files say, as its user reads them."""
        time.tzset()
        for path in self.zygote.absent:
            if os.path.exists(path):
                sys.path_importer_cache.pop(path, None)
        unread()
        folder = first_path(self)
        if _path0 and folder is not None:
            shadow = shadows(self.zygote, folder)
            if shadow:
                raise Failed('shadow', 0, '`%s` stands before a loaded module' % shadow)
            sys.path.insert(0, folder)


def address_of(data):
    """Of the bytes of a `bytes`, whose header ends where they begin."""
    return id(data) + bytes.__basicsize__ - 1


def close_others(channel):
    top = 0x7fffffff
    for low, high in ((3, channel - 1), (channel + 1, top)):
        if low <= high and syscall(CLOSE_RANGE, low, high, None, 0, 0) & 0x80000000:
            for fd in links():
                if low <= fd <= high:
                    try:
                        os.close(fd)
                    except OSError:
                        pass


def replace_environment(zygote, variables):
    """os.environ and posix.environ as a start leaves them: the first of two equal names counts."""
    environment = {}
    for variable in variables:
        name, equals, value = variable.partition(b'=')
        if equals and name not in environment:
            environment[name] = value
    extra = []
    if zygote.coerced and not environment.get(b'LC_ALL') and b'LC_CTYPE' not in environment:
        extra.append((b'LC_CTYPE', os.fsencode(zygote.coerced)))
    for name, value in zygote.written.items():
        if value is not None and os.fsencode(name) not in environment:
            extra.append((os.fsencode(name), os.fsencode(value)))
    environment.update(extra)
    data = os.environ._data
    data.clear()
    data.update(environment)
    native = sys.modules['posix'].environ
    native.clear()
    native.update(environment)
    return [name + b'=' + value for name, value in extra]


def command_line(zygote, arguments, variables, extra):
    """The arguments and the environment side by side, as execve(2) lays them out; libc's environ points there too."""
    area = b''.join(a + b'\0' for a in arguments)
    environ_at = len(area)
    area += b''.join(v + b'\0' for v in variables)
    end = len(area)
    area += b''.join(v + b'\0' for v in extra)
    table_at = (len(area) + 7) & -8
    size = (table_at + 8 * (len(variables) + len(extra) + 1) + 4095) & -4096
    start = mmap(None, size, 3, 0x22, -1, 0)  # readable, writable; private, anonymous
    if start in (0, -1):
        raise Failed('command line', _ctypes.get_errno(), 'map memory')
    table, at = [], start + environ_at
    for variable in list(variables) + extra:
        table.append(at)
        at += len(variable) + 1
    area += bytes(table_at - len(area)) + b''.join(a.to_bytes(8, sys.byteorder) for a in table + [0])
    memmove(start, area, len(area))
    Word.from_address(_ctypes.dlsym(_program, 'environ')).value = start + table_at
    if zygote.addresses is None:
        return
    codes, old = zygote.addresses[:6], zygote.addresses[6:]
    brk = syscall(CALLS['brk'], 0, None, None, 0, 0)
    words = codes[:5] + [brk, codes[5], start, start + environ_at, start + environ_at, start + end, 0]
    described = b''.join(w.to_bytes(8, sys.byteorder) for w in words) + bytes(4) + b'\xff' * 4  # no auxv, no exe
    if prctl_map(PR_SET_MM, PR_SET_MM_MAP, described, len(described), 0) & 0x80000000:
        # An old kernel: over the Zygote's own, as far as there is room.
        room = old[1] - old[0]
        memmove(old[0], (area[:environ_at] + bytes(room))[:room - 1] + b'\0', room)


def device(fd):
    """Of a pipe, or of a character device as /dev/null, what streams depend on; None of all else."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    kind = status.st_mode & 0o170000
    return (kind, status.st_rdev) if kind == 0o010000 or kind == 0o020000 and not os.isatty(fd) else None


def streams(unbuffered, before):
    """sys.stdin, stdout and stderr on the new descriptors. The objects stay: an import may hold one."""
    io = sys.modules['_io']  # since 3.14 a start has no `io`
    for fd, name, attribute in ((0, '<stdin>', 'stdin'), (1, '<stdout>', 'stdout'), (2, '<stderr>', 'stderr')):
        stream = getattr(sys, '__%s__' % attribute)
        if not unbuffered and before[fd] is not None and device(fd) == before[fd] and type(stream) is io.TextIOWrapper:
            continue  # as it is
        writes = fd > 0
        buffer = io.open(fd, 'wb' if writes else 'rb', 0 if unbuffered and writes else -1, None, None, None, False)
        raw = buffer if unbuffered and writes else buffer.raw
        raw.name = name
        lines = not unbuffered and (fd == 2 or raw.isatty())
        if type(stream) is not io.TextIOWrapper:
            encoding = sys.getfilesystemencoding() if stream is None else stream.encoding
            stream = io.TextIOWrapper(buffer, encoding, 'backslashreplace' if fd == 2 else 'strict', '\n', lines, unbuffered)
            setattr(sys, '__%s__' % attribute, stream)
            setattr(sys, attribute, stream)
        else:
            stream.__init__(buffer, stream.encoding, stream.errors, '\n', lines, unbuffered)
        stream.mode = 'w' if writes else 'r'


def forget_bytecode():
    """-B: sys.dont_write_bytecode, and its flag, which child processes are started by."""
    sys.dont_write_bytecode = True
    flags = sys.flags
    items = id(flags) + tuple.__basicsize__
    index = 4
    if flags[index] is flags.dont_write_bytecode and all(
            Word.from_address(items + 8 * i).value == id(flags[i]) for i in range(len(flags))):
        Word.from_address(items + 8 * index).value = id(1)


def fresh(zygote):
    """What loaded modules remember of the Zygote that a program of its own start would not find."""
    modules = sys.modules

    def module(name):
        return modules.get(name)

    threading = module('threading')
    if threading is not None:
        try:
            threading.main_thread()._set_native_id()
        except AttributeError:
            pass
    process = module('multiprocessing.process')
    if process is not None:
        try:
            process._current_process._config['authkey'] = process.AuthenticationString(os.urandom(32))
        except AttributeError:
            pass
    tempfile = module('tempfile')
    if tempfile is not None:
        tempfile.tempdir = None
        tempfile._name_sequence = None
    platform = module('platform')
    if platform is not None and hasattr(platform, '_uname_cache'):
        platform._uname_cache = None
    logging = module('logging')
    if logging is not None and hasattr(logging, '_startTime'):
        logging._startTime = time.time() if isinstance(logging._startTime, float) else time.time_ns()
    uuid = module('uuid')
    if uuid is not None:
        uuid._last_timestamp = None
        uuid._node = None
    reseed(zygote)


def forget_folders():
    """What is remembered of folders, which may be others in a container or have other files; those that are absent here."""
    absent = []
    for path, finder in list(sys.path_importer_cache.items()):
        if hasattr(finder, 'invalidate_caches'):
            finder.invalidate_caches()
        elif finder is None:
            absent.append(path)
        else:
            del sys.path_importer_cache[path]
    return absent


def drawn():
    """numpy's bit generators whose seed came from the system, but for the one that numpy.random.seed() seeds.

    What was seeded on purpose keeps its seed.
    """
    legacy = getattr(getattr(sys.modules.get('numpy.random.mtrand'), '_rand', None), '_bit_generator', None)
    kind = getattr(sys.modules.get('numpy.random'), 'BitGenerator', None)
    found = []
    for value in gc.get_objects() if isinstance(kind, type) else []:
        if issubclass(type(value), kind) and value is not legacy:
            try:
                entropy = value.seed_seq.entropy
                if isinstance(entropy, int) and entropy >> 64:
                    found.append(value)
            except Exception:
                pass
    return found


def mersenne():
    """numpy.random.seed() copies some 130 pages of the Zygote's for the sake of 2,496 bytes; None where these aren't found."""
    random = sys.modules.get('numpy.random')
    if random is None or 'ctypes' not in sys.modules:  # which is what tells their address, and no module to leave behind
        return None
    try:
        random.seed()
        kind, words = random.get_state()[:2]
        at, words = random.mtrand._rand._bit_generator.ctypes.state_address, words.tobytes()
        found = b''.join(Word.from_address(at + i).value.to_bytes(8, sys.byteorder) for i in range(0, len(words), 8))
        return (at, len(words)) if kind == 'MT19937' and found == words else None
    except Exception:
        return None


def forget_settings():
    """Matplotlib's functions remember what they returned; its import reads settings of the user's (see unread)."""
    for name in ('get_configdir', 'get_cachedir'):
        try:
            function = getattr(sys.modules['matplotlib'], name)
            function.__closure__[function.__code__.co_freevars.index('called')].cell_contents = False
        except Exception:
            pass


def unread():
    """Settings in the working directory or the user's, which the import of matplotlib would have read."""
    if 'matplotlib' not in sys.modules:
        return
    home = os.environ.get('XDG_CONFIG_HOME') or '%s/.config' % os.path.expanduser('~')
    for path in ('matplotlibrc', '%s/matplotlibrc' % (os.environ.get('MPLCONFIGDIR') or '%s/matplotlib' % home)):
        if os.path.exists(path):
            raise Failed('shadow', 0, '`%s` is read by the import of matplotlib' % path)


def reseed(zygote):
    """`random` itself is seeded anew by Python in each fork."""
    if zygote.mersenne:
        at, size = zygote.mersenne
        memmove(at, os.urandom(size), size)
    for name in ('torch',) if zygote.mersenne else ('numpy.random', 'torch'):
        module = sys.modules.get(name)
        if module is not None:
            try:
                module.seed()
            except Exception:
                pass
    for value in zygote.drawn:
        try:
            value.state = type(value)().state
        except Exception:
            pass


# ---- the program

def first_path(plan):
    """What the interpreter's own main puts in front of sys.path, or None (getpath, PEP 432's sys_path_0)."""
    if plan.mode == 'command':
        return ''
    try:
        if plan.mode == 'module':
            return os.getcwd()
        if importer(absolute(plan.target)) is not None:
            return None  # a folder or an archive: itself, when it is run
        return os.path.dirname(os.path.realpath(plan.target))
    except OSError:
        return None


def pools(zygote):
    """Thread pools as large as a start of the program's own would have made them."""
    processors = len(os.sched_getaffinity(0))
    if processors < zygote.processors:
        for threads, setter in zygote.blas:
            if processors < threads:
                setter(processors)
    numexpr = sys.modules.get('numexpr')
    if numexpr is not None:
        try:
            numexpr.nthreads = numexpr.utils._init_num_threads()
        except Exception:
            pass


def absolute(path):
    if path.startswith('/'):
        return path
    return '%s/%s' % (os.getcwd(), path)


def importer(path):
    """Of a folder or an archive; None for a file."""
    return get_importer(path)


def shadows(zygote, folder):
    """Modules that are loaded and that a plain start would have taken from this folder."""
    if not zygote.tops:
        return None
    suffixes = sys.modules['_imp'].extension_suffixes() + ['.py', '.pyc']
    here = os.path.realpath(folder or '.')
    try:
        names = os.listdir(here)
    except OSError:
        return None
    for name in names:
        top = name.partition('.')[0]
        if top not in zygote.tops:
            continue
        path = here + '/' + name
        if name == top:
            if not any(os.path.exists('%s/__init__%s' % (path, suffix)) for suffix in suffixes):
                continue
        elif name[len(top):] not in suffixes:
            continue
        file = getattr(sys.modules.get(top), '__file__', None)
        if file and os.path.realpath(file) in (path, path + '/__init__.py'):
            continue  # it is the very one
        return path
    return None


def frame_address():
    """The caller's frame as the interpreter's thread state names it: the frame object, since 3.11 what is behind it."""
    frame = sys._getframe(1)
    return id(frame) if sys.version_info < (3, 11) else Word.from_address(id(frame) + 24).value


def frame_slot():
    """Where the thread state says which frame is on top; None where it is not found, as it stands in no ABI."""
    if sys.implementation.name != 'cpython' or sys.version_info >= (3, 15) or hasattr(sys, 'gettotalrefcount'):
        return None
    here, state = frame_address(), thread_state()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        at = Word.from_address(state + 56).value + (8 if sys.version_info < (3, 12) else 0)
        return at if Word.from_address(at).value == here else None
    found = []
    for at in range(state + 24, state + 192, 8):  # no comprehension: that is a frame itself
        if Word.from_address(at).value == here:
            found.append(at)
    return found[0] if len(found) == 1 else None


def alone(function, *arguments):
    """Calls a function of C's with no frame below it, as the interpreter's own main does."""
    at = frame_slot()
    if at is not None and Word.from_address(at).value != frame_address():
        at = None
    if at is None:
        return function(*arguments)
    slot = Word.from_address(at)
    here = slot.value
    slot.value = 0
    try:
        return function(*arguments)
    finally:
        slot.value = here


def told(error):
    """PyErr_PrintEx(3c) for what came out of `alone`, its frames taken off; the exit status."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    error.__traceback__ = trace
    if isinstance(error, SystemExit):
        raise error
    kind = type(error)
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
    hook = getattr(sys, 'excepthook', None)
    sys.audit('sys.excepthook', hook, kind, error, trace)
    if hook is None:
        sys.stderr.write('sys.excepthook is missing\n')
        sys.__excepthook__(kind, error, trace)
        return 1
    try:
        alone(call_object, hook, (kind, error, trace))
    except SystemExit:
        raise
    except BaseException as second:
        inner = second.__traceback__
        while inner is not None and inner.tb_frame.f_globals is globals():
            inner = inner.tb_next
        try:
            sys.stdout.flush()
        except Exception:
            pass
        sys.stderr.write('Error in sys.excepthook:\n')
        sys.__excepthook__(type(second), second.with_traceback(inner), inner)
        sys.stderr.write('\nOriginal exception was:\n')
        sys.__excepthook__(kind, error, trace)
    return 1


def dedent(source):
    """textwrap.dedent, which `-c` does since 3.14, without its import."""
    margin, lines = None, source.split('\n')
    for line in lines:
        if line.strip(' \t'):
            indent = line[:len(line) - len(line.lstrip(' \t'))]
            margin = indent if margin is None else os.path.commonprefix([margin, indent])
    return '\n'.join(line[len(margin or ''):] if line.strip(' \t') else '' for line in lines)


def flags(value):
    """PyCompilerFlags."""
    return value.to_bytes(4, sys.byteorder) + sys.version_info[1].to_bytes(4, sys.byteorder)


def run_command(plan):
    sys.audit('cpython.run_command', plan.target)
    source = plan.target
    if sys.version_info >= (3, 14):
        source = dedent(source)
    try:
        data = source.encode()
    except UnicodeEncodeError as e:
        sys.stderr.write('Unable to decode the command from the command line:\n')
        e.__traceback__ = None
        return told(e)
    if sys.version_info >= (3, 13):  # its lines for tracebacks, as pymain_run_command() does
        try:
            code = compile(data, '<string>', 'exec', 0, True)
        except BaseException:
            pass
        else:
            import linecache
            key = code if hasattr(linecache, '_interactive_cache') else '<string>'  # later releases of 3.13 and on
            linecache._register_code(key, source, '<string>')
            del code, key
    return 1 if alone(run_string, data + b'\0', flags(0x800)) else 0


def run_module(plan, name, alter):
    sys.audit('cpython.run_module', name)
    runpy = __import__('runpy')
    try:
        alone(call_object, runpy._run_module_as_main, (name, alter))
    except BaseException as e:
        error = e
    else:
        return 0
    return told(error)


def run_script(plan):
    path = absolute(plan.target)
    if importer(path) is not None:
        sys.path.insert(0, path)
        return run_module(plan, '__main__', False)
    sys.audit('cpython.run_file', path)
    file = fopen(os.fsencode(path) + b'\0', b'rbe\0')
    if not file:
        e = _ctypes.get_errno()
        program = os.fsdecode(plan.arguments[0])
        name = "'%s'" % path if sys.version_info < (3, 10) else repr(path)
        sys.stderr.write("%s: can't open file %s: [Errno %d] %s\n" % (program, name, e, os.strerror(e)))
        return 2
    return 1 if alone(run_file, file, os.fsencode(path) + b'\0', 1, flags(0)) else 0


def run(plan):
    """The program, from its first line to its last; its status, None where Python's own main is to tell."""
    pools(plan.zygote)
    for hook in plan.zygote.hooks['fork']:
        try:
            alone(call_object, hook, ())
        except BaseException as e:
            error = e
        else:
            continue
        return told(error)
    if gc.isenabled() is False and plan.zygote.collects:
        gc.enable()
    status = {'command': run_command, 'script': run_script, 'module': lambda p: run_module(p, p.target, True)}[plan.mode](plan)
    if status == 1 and getattr(sys, 'last_type', None) is KeyboardInterrupt:
        # The interpreter's main ends by SIGINT only where C told of one: up to 3.13 left one unhandled.
        kept = {name: value for name, value in vars(sys).items() if name == 'excepthook' or name.startswith('last_')}
        sys.excepthook = lambda *_: None
        run_string(b'raise KeyboardInterrupt\0', None)
        del sys.excepthook
        vars(sys).update(kept)
        return None
    return status


if __name__ == '__main__':
    # Again, in a namespace of its own: `__main__` is the program's.
    exec(sys._getframe().f_code, {'__name__': '<zygote>', '__builtins__': __builtins__, '_first': _first,
                                  '_plain_modules': _plain_modules, '_path0': _path0})
elif __name__ == '<zygote>':
    for _name in set(sys.modules) - _plain_modules:
        del sys.modules[_name]
    _status = run(Zygote().serve())
    if _status:
        raise SystemExit(_status)
