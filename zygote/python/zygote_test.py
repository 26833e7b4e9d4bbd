"""Tests of the helper inside a Zygote: this program plays the monitor. As root, with the interpreter that runs it.

usage: zygote_test.py [unittest's arguments]; PYTHON in the environment is another interpreter for the Zygote.
"""
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from testing import HELPER, Zygote, adopt, pack, unpack

PYTHON = os.environ.get('PYTHON', sys.executable)
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
ALL = 0x1ffffffffff  # of the capabilities, more than the kernel has


def checked(result, what):
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, '%s: %s' % (what, os.strerror(e)))
    return result


class Namespaces:
    """A process that holds a user namespace, mapped to ids from 700000, and the namespaces of a pod in it."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ours.close()
                checked(libc.unshare(NEWUSER), 'unshare user')
                theirs.send(b'1')
                theirs.recv(1)
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
                checked(libc.unshare(NEWNET | NEWIPC | NEWUTS | NEWNS), 'unshare')
                libc.sethostname(b'a-pod', 5)
                theirs.send(b'2')
                theirs.recv(1)
            finally:
                os._exit(0)
        theirs.close()
        self.socket = ours
        assert ours.recv(1)
        for kind in ('uid_map', 'gid_map'):
            with open('/proc/%d/%s' % (self.pid, kind), 'w') as f:
                f.write('0 700000 65536')
        ours.send(b'1')
        assert ours.recv(1), 'the namespaces could not be made'
        self.fds = {name: os.open('/proc/%d/ns/%s' % (self.pid, name), os.O_RDONLY | os.O_CLOEXEC)
                    for name in ('user', 'net', 'ipc', 'uts', 'mnt')}

    def name(self, kind):
        return os.readlink('/proc/%d/ns/%s' % (self.pid, kind))

    def end(self):
        for fd in self.fds.values():
            os.close(fd)
        self.socket.close()
        os.waitpid(self.pid, 0)


class Case(unittest.TestCase):
    two_forks = False

    def setUp(self):
        self.addCleanup(self.nothing_left)
        self.top = tempfile.mkdtemp(prefix='zygote-test-')
        os.chmod(self.top, 0o755)
        self.addCleanup(shutil.rmtree, self.top)
        self.home = os.path.join(self.top, 'scratch')
        os.mkdir(self.home)
        os.mkdir(os.path.join(self.top, 'lib'))

    def module(self, name, source):
        with open(os.path.join(self.top, 'lib', name + '.py'), 'w') as f:
            f.write(source)

    def zygote(self, *modules, bare=False, environment=(), output=None):
        environment = ['PATH=/usr/bin:/bin', 'LANG=C.UTF-8', 'HOME=' + self.home, 'TMPDIR=' + self.home,
                       'PYTHONPATH=' + os.path.join(self.top, 'lib'), 'PYTHONDONTWRITEBYTECODE=1'] + list(environment)
        self.environment = environment
        zygote = Zygote(PYTHON, environment, None if bare else modules, two_forks=self.two_forks,
                        output=output)
        self.addCleanup(lambda: zygote.end())
        return zygote

    def reachable(self):
        folder = os.path.dirname(os.path.realpath(PYTHON))
        while folder != '/':
            if not os.stat(folder).st_mode & 1:
                self.skipTest('no other user reaches ' + PYTHON)
            folder = os.path.dirname(folder)

    def nothing_left(self):
        with self.assertRaises(ChildProcessError):  # of the Zygotes, and of what they forked
            os.waitpid(-1, os.WNOHANG)

    def run_code(self, zygote, code, extra=(), fds=(), parked=None, cwd='/', look=None, mounts=None):
        """The output and the wait status of `python -c CODE` from a Zygote; `look` is called before it goes."""
        with tempfile.TemporaryFile() as output, open('/dev/null') as null:
            pid, channel, answer = zygote.program(
                ['python3', '-c', code], self.environment, cwd, [null.fileno(), output.fileno(), output.fileno()],
                extra=extra, fds=fds, parked=parked, mounts=mounts)
            try:
                if answer[0] != ('op', 'ready'):
                    return answer, os.waitpid(pid, 0)[1]
                if look:
                    look(pid)
                channel.send(pack('go'))
            finally:
                channel.close()
            status = os.waitpid(pid, 0)[1]
            output.seek(0)
            return output.read().decode(), status

    def refused(self, zygote, step, extra=(), fds=(), **more):
        answer, status = self.run_code(zygote, 'print(1)', extra, fds, **more)
        self.assertIsInstance(answer, list, answer)
        self.assertEqual(answer[0], ('op', 'failed'))
        self.assertEqual(dict(answer)['step'], step, answer)
        self.assertNotEqual(status, 0)
        return dict(answer)


class Protocol(Case):
    def test_hello(self):
        answer = dict(self.zygote(bare=True).ask('hello'))
        self.assertEqual(answer['version'], '1')
        self.assertEqual(answer['serial'], '1')
        self.assertRegex(answer['runtime'], r'^cpython-3\.\d+\.\d+$')
        self.assertIn('GCC', answer['build'].replace('Clang', 'GCC'))

    def test_unknown_fields_are_ignored(self):
        self.assertEqual(dict(self.zygote(bare=True).ask('hello', ('later', '1')))['op'], 'hello')

    def test_probe(self):
        lib = os.path.join(self.top, 'lib')
        for name, files in {'Some_Thing-1.2.dist-info': {'METADATA': 'Name: Some_Thing\nVersion: 1.2\n', 'top_level.txt': 'some\n_some\n'},
                            'other-3.0rc1.dist-info': {'METADATA': 'Name: other\nVersion: 3.0rc1\n',
                                                       'RECORD': 'oth/__init__.py,,\nfile.py,,\n../../bin/x,,\n'}}.items():
            os.mkdir(os.path.join(lib, name))
            for file, content in files.items():
                with open(os.path.join(lib, name, file), 'w') as f:
                    f.write(content)
        # Since 3.12 a file that RECORD names and that is not there does not count.
        os.mkdir(os.path.join(lib, 'oth'))
        self.module('oth/__init__', '')
        self.module('file', '')
        zygote = self.zygote(bare=True)
        packages = [v for k, v in zygote.ask('probe') if k == 'package']
        self.assertIn('Some_Thing 1.2 some _some', packages)
        self.assertIn('other 3.0rc1 oth file', packages)
        zygote.ask('load')
        self.assertEqual(self.run_code(zygote, 'import sys; print("importlib.metadata" in sys.modules)'), ('False\n', 0))

    def test_load(self):
        self.module('good', 'x = 1')
        self.module('bad', 'raise ValueError("no")')
        self.module('leaves', 'raise SystemExit(3)')
        self.module('typo', 'def')
        answer = self.zygote(bare=True).ask('load', *[('module', m) for m in ('good', 'bad', 'leaves', 'typo', 'absent', 'json.decoder')])
        self.assertEqual([v for k, v in answer if k == 'module'], ['good', 'json.decoder'])
        missing = [v for k, v in answer if k == 'missing']
        self.assertEqual([m.split(':')[0] for m in missing],
                         ['bad ValueError', 'leaves SystemExit', 'typo SyntaxError', 'absent ModuleNotFoundError'])
        self.assertEqual(dict(answer)['forkable'], 'yes')
        self.assertTrue(dict(answer)['milliseconds'].isdigit())

    def test_malformed(self):
        zygote = self.zygote()
        for message in (b'x', b'\0', b'op', b'op\0', b'op\0hello', b'op\0\0\0', b'op\0hello\0serial\0', b'serial\0001\0op\0hello\0',
                        b'op\0nothing\0', b'op\0fork\0', b'\0' * 100, bytes(range(256)), b'op\0hello\0' + b'x\0y\0' * 40000):
            zygote.socket.send(message)
            answer = dict(unpack(zygote.socket.recv(200000)))
            self.assertEqual(answer['op'], 'failed', message[:50])
            self.assertEqual(answer['step'], 'protocol')
        zygote.ask('hello')

    def test_malformed_fork(self):
        zygote = self.zygote()
        with open('/dev/null') as null:
            fd = null.fileno()
            for fields, fds in (((), ()), ((('enter', 'user'),), (fd,)), ((), (fd, fd)), ((('enter', 'time'),), (fd, fd)),
                                ((('enter', 'net'),), (fd, fd)), ((('enter', 'net'), ('enter', 'user')), (fd, fd, fd))):
                with self.assertRaisesRegex(RuntimeError, "'protocol'"):
                    zygote.ask('fork', *fields, fds=fds)
            with self.assertRaisesRegex(RuntimeError, r"'step', 'enter'.*'errno', '22'.*enter user namespace"):
                zygote.ask('fork', ('enter', 'user'), fds=(fd, fd))
        zygote.ask('hello')
        self.assertEqual(len(os.listdir('/proc/%d/fd' % zygote.pid)), 4)

    def test_malformed_become(self):
        zygote = self.zygote()
        good = [('arg', 'python3'), ('mode', 'command'), ('target', 'pass')]
        for fields in (good[1:], good[:1], good[:2], good + [('uid', 'root')], good + [('uid', '-1')], good + [('uid', '0'), ('group', 'x')],
                       good + [('umask', '0x12')], good + [('mode', 'other')], good + [('option', '-O')], good + [('seccomp', 'xy')],
                       good + [('seccomp', '00')], good + [('cap_bounding', '1')], good + [('cgroups', '2')]):
            pid, channel = zygote.park()
            with open('/dev/null') as null:
                socket.send_fds(channel, [pack('become', *fields)], [null.fileno()] * 3)
            answer = dict(unpack(channel.recv(10000)))
            self.assertEqual((answer['op'], answer['step']), ('failed', 'protocol'), fields)
            self.assertNotEqual(os.waitpid(pid, 0)[1], 0)
            channel.close()
        for message in (b'junk', pack('go'), b'op\0become\0'):
            pid, channel = zygote.park()
            channel.send(message)
            self.assertEqual(dict(unpack(channel.recv(10000)))['step'], 'protocol')
            os.waitpid(pid, 0)
            channel.close()

    def test_end_of_the_channel(self):
        zygote = self.zygote()
        pid, channel = zygote.park()
        channel.close()
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        with open('/dev/null', 'r+') as null:
            pid, channel, answer = zygote.program(['python3', '-c', 'raise SystemExit(9)'], [], '/', [null.fileno()] * 3)
        self.assertEqual(answer[0], ('op', 'ready'))
        channel.close()
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_programs_outlive_the_zygote(self):
        zygote = self.zygote()
        parked = zygote.park()
        os.kill(zygote.pid, signal.SIGKILL)
        os.waitpid(zygote.pid, 0)
        self.assertEqual(self.run_code(zygote, 'print(1)', parked=parked), ('1\n', 0))
        zygote.end = zygote.socket.close

    def test_many(self):
        zygote = self.zygote('json')
        parked = [zygote.park() for _ in range(20)]
        self.assertEqual(len({pid for pid, _ in parked}), 20)
        for one in parked:
            self.assertEqual(self.run_code(zygote, 'import os; print(os.getppid())', parked=one), ('%d\n' % os.getpid(), 0))


class Hygiene(Case):
    def unforkable(self, source, reason):
        self.module('mod', source)
        answer = dict(self.zygote(bare=True).ask('load', ('module', 'mod')))
        self.assertEqual(answer['forkable'], 'no')
        self.assertRegex(answer['reason'], reason)

    def test_threads(self):
        self.unforkable('import threading, time\nthreading.Thread(target=time.sleep, args=(100,), daemon=True).start()', 'thread')

    def test_native_threads(self):
        self.unforkable('''
import ctypes
libc = ctypes.CDLL(None)
thread, forever = ctypes.c_void_p(), ctypes.CFUNCTYPE(ctypes.c_int)(('pause', libc))
libc.pthread_create(ctypes.byref(thread), None, forever, None)
''', '1 threads beside')

    def test_socket(self):
        self.unforkable('import socket\ns = socket.socket()', 'left open: socket')

    def test_epoll(self):
        self.unforkable('import select\ne = select.epoll()', r'left open: anon_inode:.*eventpoll')

    def test_file(self):
        self.unforkable('f = open("/etc/passwd")', 'left open: /etc/passwd')

    def test_pipe(self):
        self.unforkable('import os\np = os.pipe()', 'left open: pipe')

    def test_shared_memory(self):
        self.unforkable('import multiprocessing\nlock = multiprocessing.Lock()', 'shared memory is left: /dev/shm/')
        self.unforkable('import mmap\nshared = mmap.mmap(-1, 4096)', 'shared memory is left: /dev/zero')

    def test_child(self):
        self.addCleanup(os.wait)  # once the Zygote is gone, its child is ours
        self.unforkable('import subprocess\np = subprocess.Popen(["sleep", "0.2"])', 'child process')

    def test_files(self):
        self.unforkable('import os, tempfile\nopen(os.environ["TMPDIR"] + "/cache", "w")', 'files left behind: .*/cache')

    def test_output(self):
        self.unforkable('print("hello from an import")', 'writes to its output: hello from an import')
        self.unforkable('import os; os.write(2, b"raw")', 'writes to its output: raw')

    def test_hook_that_fails(self):
        self.unforkable('import cri_sock\n@cri_sock.before_freeze\ndef f(): raise ValueError("not now")', 'before_freeze hook raised ValueError: not now')

    def test_pools(self):
        self.module('pool', """
import os
seen = os.environ.get('NUMEXPR_NUM_THREADS'), os.environ.get('JE_ARROW_MALLOC_CONF')""")
        zygote = self.zygote('pool', environment=['NUMEXPR_NUM_THREADS=7'])
        code = 'import os, pool; print(pool.seen, os.environ.get("NUMEXPR_NUM_THREADS"), os.environ.get("JE_ARROW_MALLOC_CONF"))'
        self.assertEqual(self.run_code(zygote, code), ("('7', 'background_thread:false') 7 None\n", 0))

    def test_callbacks_of_imports(self):
        self.module('calls_back', 'import ctypes\ncallback = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)')
        zygote = self.zygote('calls_back')
        self.assertEqual(self.run_code(zygote, 'import calls_back; print(calls_back.callback())'), ('7\n', 0))

    def test_threads_that_end_before_a_fork(self):
        self.module('mod', """
import os, threading
stop = threading.Event()
thread = threading.Thread(target=stop.wait, daemon=True)
thread.start()
os.register_at_fork(before=lambda: (stop.set(), thread.join()))""")
        zygote = self.zygote('mod')
        self.assertEqual(self.run_code(zygote, 'import mod; print(mod.thread.is_alive())'), ('False\n', 0))

    def test_environment_of_imports(self):
        self.module('writes', 'import os\nos.environ["FROM_IMPORT"] = "yes"\nos.environ["OMP_NUM_THREADS"] = "3"')
        zygote = self.zygote('writes')
        code = 'import os; print(os.environ["FROM_IMPORT"], os.environ["OMP_NUM_THREADS"]); os.system("echo $FROM_IMPORT")'
        output, status = self.run_code(zygote, code)
        self.assertEqual((sorted(output.split('\n')), status), (['', 'yes', 'yes 3'], 0))

    def test_hooks(self):
        self.module('hooked', '''
import cri_sock
seen = []
cri_sock.before_freeze(lambda: seen.append('freeze'))
@cri_sock.after_fork
def after():
    import os, sys
    seen.append((os.environ['ONE'], sys.argv[0], os.getpid() != parent))
import os
parent = os.getpid()
''')
        zygote = self.zygote('hooked')
        self.environment = self.environment + ['ONE=1']
        code = 'import hooked, sys; print(hooked.seen, "cri_sock" in sys.modules)'
        self.assertEqual(self.run_code(zygote, code), ("['freeze', ('1', '-c', True)] False\n", 0))

    def test_after_fork_that_fails(self):
        self.module('hooked', 'import cri_sock\n@cri_sock.after_fork\ndef after(): raise ValueError("in the hook")')
        output, status = self.run_code(self.zygote('hooked'), 'print("never")')
        self.assertEqual(status, 256)
        self.assertRegex(output, r'^Traceback \(most recent call last\):\n  File ".*/hooked.py", line 3, in after\n(.*\n)*ValueError: in the hook\n$')

    def test_descriptors(self):
        pid_fds = []
        zygote = self.zygote()
        output, _ = self.run_code(zygote, 'import os; print(sorted(os.listdir("/proc/self/fd")))',
                                  look=lambda pid: pid_fds.extend(os.listdir('/proc/%d/fd' % pid)))
        self.assertEqual(len(pid_fds), 4)  # the channel beside 0 to 2
        self.assertEqual(output, "['0', '1', '2', '3']\n")  # 3 is the folder itself

    def test_randomness(self):
        self.module('rng', 'import random\nrandom.random()\nimport uuid, multiprocessing.process')
        zygote = self.zygote('rng')
        code = ('import random, uuid, os, multiprocessing as m; print(random.random(), uuid.uuid4(), uuid.uuid1(), os.urandom(4), '
                'bytes(m.current_process().authkey))')
        first, second = (self.run_code(zygote, code)[0].split() for _ in range(2))
        for a, b in zip(first, second):
            self.assertNotEqual(a, b)

    def test_locks_around_a_fork_of_the_program(self):
        zygote = self.zygote('threading', 'logging')
        zygote.ask('load', ('module', 'concurrent.futures.thread'))  # the second changes nothing about it
        output, status = self.run_code(zygote, """if 1:
            import logging, os, signal, threading, warnings
            warnings.simplefilter('ignore')  # of a fork with threads, which is what is looked at
            held, done = threading.Event(), threading.Event()
            def hold():
                with logging._lock:
                    held.set()
                    done.wait(0.5)
            logging.lastResort.acquire()
            logging.lastResort.release()
            other = threading.Thread(target=hold)
            other.start()
            held.wait()
            pid = os.fork()
            if not pid:
                signal.alarm(20)  # not free: it would wait for ever
                logging.getLogger('x').setLevel(10)
                print(threading.enumerate() == [threading.main_thread()], other.is_alive(), flush=True)
                os._exit(7)
            print(os.waitpid(pid, 0)[1] >> 8, len(threading.enumerate()))
            done.set()
            """)
        self.assertEqual((output, status), ('True False\n7 1\n', 0))

    def test_new_objects_lie_together(self):
        self.module('holes', 'kept = [object() for _ in range(200000)]\ndel kept[::150]')
        zygote = self.zygote('holes')
        output, status = self.run_code(
            zygote, 'new = [object() for _ in range(200)]; print(len({id(o) >> 12 for o in new}))')
        self.assertEqual(status, 0)
        self.assertLess(int(output), 20)

    @unittest.skipUnless(os.uname().machine == 'x86_64' and hasattr(libc, 'gnu_get_libc_version'), 'left where it is')
    def test_heap_in_a_file(self):
        self.module('many', """if 1:
            gone = [b'%600d' % i for i in range(60000)]
            kept = [str(i) for i in range(300000)]
            last = b'%600d' % 0
            del gone
            grown = bytearray(1 << 20)
            """)
        zygote = self.zygote('many')
        pid, channel = zygote.park()
        with open('/proc/%d/status' % pid) as status:
            anonymous = [int(line.split()[1]) for line in status if line.startswith('RssAnon:')]
        channel.close()
        os.waitpid(pid, 0)
        self.assertLess(anonymous[0], 12 << 10)
        heap = ['/proc/%d/map_files/%s' % (zygote.pid, name) for name in os.listdir('/proc/%d/map_files' % zygote.pid)]
        heap = [path for path in heap if os.readlink(path) == '/memfd:heap (deleted)']
        self.assertTrue(heap)
        self.assertLess(os.stat(heap[0]).st_blocks * 512, 32 << 20, 'what was given back takes memory')
        for path in heap:
            fd = os.open(path, os.O_RDWR)
            with self.assertRaises(PermissionError):
                os.pwrite(fd, b'0', 0)
            os.close(fd)
        changes = """if 1:
            import ctypes, gc, many
            print(many.kept == [str(i) for i in range(300000)], sum(many.grown), flush=True)
            for _ in range(20):
                many.grown.extend(bytes(1 << 20))
            many.grown[0] = 1
            many.kept = [int(s) for s in many.kept if int(s) % 3]
            ctypes.CDLL(None).malloc_trim(0)
            more = [bytes([i & 255]) * 5000 for i in range(20000)]
            print(sum(many.grown), sum(many.kept), all(b[0] == b[-1] == i & 255 for i, b in enumerate(more)))
            """
        expected = 'True 0\n1 %d True\n' % sum(i for i in range(300000) if i % 3)
        for _ in range(2):
            self.assertEqual(self.run_code(zygote, changes), (expected, 0))
        self.assertIn(('forkable', 'yes'), zygote.ask('load', ('module', 'decimal')))
        self.assertEqual(self.run_code(zygote, changes), (expected, 0))

    def test_heap_with_a_thread(self):
        self.module('busy', """if 1:
            import threading
            threading.Thread(target=lambda: [bytes(500) for _ in iter(int, 1)], daemon=True).start()
            kept = [str(i) for i in range(300000)]
            """)
        zygote = self.zygote(bare=True)
        answer = dict(zygote.ask('load', ('module', 'busy')))
        self.assertEqual(answer['forkable'], 'no')
        self.assertIn('thread', answer['reason'])
        with open('/proc/%d/maps' % zygote.pid) as maps:
            self.assertNotIn('/memfd:heap', maps.read())

    def test_streams_on_pipes(self):
        code = """if 1:
            import os, sys
            for s in sys.stdin, sys.stdout, sys.stderr:
                print(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty(), s.closed,
                      type(s.buffer), s.buffer.raw.name, s.buffer.raw.mode, s.buffer.raw.closefd, s.fileno())
            print(repr(sys.stdin.read()))
            sys.stdout.flush()
            print('not yet', end='')
            os.write(1, b'first ')
            """
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        zygote = self.zygote(output=write)
        os.close(write)
        with open('/dev/null') as null:
            plain = subprocess.run([PYTHON, '-c', code], stdin=null, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(v.split('=', 1) for v in self.environment), check=True).stdout
            ours, theirs = os.pipe()
            pid, channel, answer = zygote.program(['python3', '-c', code], self.environment, '/',
                                                  [null.fileno(), theirs, theirs])
            os.close(theirs)
            self.assertEqual(answer, [('op', 'ready')])
            channel.send(pack('go'))
            with open(ours, 'rb') as output:
                self.assertEqual(output.read(), plain)
            self.assertIn(b'first not yet', plain)
            channel.close()
            self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_streams_on_a_file(self):
        code = 'import sys; print(sys.stdout.seekable(), sys.stdout.tell(), sys.stdout.buffer.raw.seekable())'
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        zygote = self.zygote(output=write)
        os.close(write)
        self.assertEqual(self.run_code(zygote, code), ('True 0 True\n', 0))

    def test_garbage_is_collected(self):
        code = ('import gc, os\nassert gc.isenabled()\nclass A:\n def __del__(self): os.write(1, b"gone")\n'
                'a = A(); a.a = a; del a; gc.collect()')
        self.assertEqual(self.run_code(self.zygote('json'), code), ('gone', 0))

    def test_shadow(self):
        os.mkdir(os.path.join(self.top, 'app'))
        path = os.path.join(self.top, 'app', 'json.py')
        with open(path, 'w') as f:
            f.write('mine = True')
        zygote = self.zygote('json')
        cwd = os.path.join(self.top, 'app')
        with open('/dev/null', 'r+') as null:
            open(os.path.join(cwd, 'app.py'), 'w').close()
            for argv in (['python3', os.path.join(cwd, 'app.py')], ['python3', 'app.py'], ['python3', '-m', 'app'], ['python3', '-c', '']):
                pid, channel, answer = zygote.program(argv, [], cwd, [null.fileno()] * 3)
                self.assertEqual((dict(answer)['op'], dict(answer).get('step')), ('failed', 'shadow'), argv)
                self.assertIn(path, dict(answer)['text'])
                os.waitpid(pid, 0)
                channel.close()
        os.rename(path, os.path.join(cwd, 'colorsys.py'))  # not loaded: no matter
        self.assertEqual(self.run_code(zygote, 'import colorsys; print(colorsys.mine)', cwd=cwd), ('True\n', 0))

    def test_matplotlib_and_its_settings(self):
        # As matplotlib finds, makes and remembers the folder of its settings when it is imported.
        self.module('matplotlib', """
import os
def remembers(function):
    called = ret = None
    def wrapper():
        nonlocal called, ret
        if not called:
            ret, called = function(), True
        return ret
    return wrapper
@remembers
def get_configdir():
    folder = os.environ.get('MPLCONFIGDIR') or os.path.expanduser('~/.config/matplotlib')
    os.makedirs(folder, exist_ok=True)
    open(folder + '/cache', 'w').close()
    return folder
seen = get_configdir()""")
        zygote = self.zygote('matplotlib')
        code = 'import matplotlib, os; print(matplotlib.get_configdir(), os.environ.get("MPLCONFIGDIR"), os.path.exists(matplotlib.seen))'
        folder = self.home + '/.config/matplotlib'
        self.assertEqual(self.run_code(zygote, code), ('%s None False\n' % folder, 0))
        with open(folder + '/matplotlibrc', 'w'):
            answer, status = self.run_code(zygote, code)
        self.assertEqual(dict(answer)['step'], 'shadow')
        self.assertIn('matplotlibrc', dict(answer)['text'])

    def test_speed_of_the_path_is_not_seconds(self):
        zygote = self.zygote('json')
        begin = time.monotonic()
        for _ in range(10):
            self.run_code(zygote, 'pass')
        self.assertLess(time.monotonic() - begin, 5)


def status_of(pid):
    with open('/proc/%d/status' % pid) as f:
        return {line.split(':')[0]: line.split(':')[1].split() for line in f}


def seccomp(*denied):
    """A filter that answers EPERM to these numbers of the native table and allows the rest."""
    code = [struct.pack('HBBI', 0x20, 0, 0, 0)]  # the number
    for i, number in enumerate(denied):
        code.append(struct.pack('HBBI', 0x15, len(denied) - i, 0, number))
    code += [struct.pack('HBBI', 6, 0, 0, 0x7fff0000), struct.pack('HBBI', 6, 0, 0, 0x50001)]
    return b''.join(code).hex()


CAPS = [('cap_bounding', '%016x' % 0x421), ('cap_permitted', '%016x' % 0x401), ('cap_effective', '%016x' % 0x1),
        ('cap_inheritable', '%016x' % 0x401), ('cap_ambient', '%016x' % 0x400)]
MKDIR = {'x86_64': 83}.get(os.uname().machine, 34)  # mkdirat there


RSEQ = '''
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.pthread_self.restype = ctypes.c_void_p
try:
    size = ctypes.c_uint.in_dll(libc, '__rseq_size').value
    area = libc.pthread_self() + ctypes.c_long.in_dll(libc, '__rseq_offset').value
except ValueError:
    size = 0
# Once more, as the C library did it: EBUSY where that stands.
print(size and (libc.syscall(334, ctypes.c_void_p(area), 32, 0, 0x53053053), ctypes.get_errno()))
'''


@unittest.skipUnless(os.getuid() == 0, 'needs root')
class Container(Case):
    @unittest.skipUnless(os.uname().machine == 'x86_64', 'numbers of x86-64')
    def test_rseq(self):
        zygote = self.zygote()
        plain = subprocess.run([PYTHON, '-c', RSEQ], stdout=subprocess.PIPE, check=True).stdout.decode()
        self.assertEqual(self.run_code(zygote, RSEQ), (plain, 0))

    def test_ids(self):
        seen = {}
        output, status = self.run_code(
            self.zygote(), 'import os; print(os.getresuid(), os.getresgid(), os.getgroups(), oct(os.umask(0)))',
            extra=[('uid', 1000), ('gid', 2000), ('group', 3000), ('group', 4000), ('umask', 0o077)] + CAPS,
            look=lambda pid: seen.update(status_of(pid)))
        self.assertEqual((output, status), ('(1000, 1000, 1000) (2000, 2000, 2000) [3000, 4000] 0o77\n', 0))
        self.assertEqual(seen['Uid'], ['1000'] * 4)
        self.assertEqual(seen['NoNewPrivs'], ['0'])
        self.assertEqual(seen['Threads'], ['1'])

    def test_no_groups(self):
        output, _ = self.run_code(self.zygote(), 'import os; print(os.getgroups(), os.getuid())', extra=[('uid', 0), ('gid', 0)])
        self.assertEqual(output, '[] 0\n')

    def test_capabilities(self):
        for uid in (0, 1000):
            seen = {}
            self.run_code(self.zygote(), 'pass', extra=[('uid', uid), ('gid', uid)] + CAPS, look=lambda pid: seen.update(status_of(pid)))
            self.assertEqual({k: int(seen[k][0], 16) for k in ('CapBnd', 'CapPrm', 'CapEff', 'CapInh', 'CapAmb')},
                             {'CapBnd': 0x421, 'CapPrm': 0x401, 'CapEff': 0x1, 'CapInh': 0x401, 'CapAmb': 0x400})

    def test_no_capabilities(self):
        seen = {}
        self.run_code(self.zygote(), 'pass', extra=[('uid', 0), ('gid', 0)] + [(k, '0' * 16) for k, _ in CAPS],
                      look=lambda pid: seen.update(status_of(pid)))
        self.assertEqual({int(v[0], 16) for k, v in seen.items() if k.startswith('Cap')}, {0})

    def test_seccomp(self):
        code = 'import os\ntry: os.mkdir("/tmp/never-made")\nexcept OSError as e: print(e.errno)'
        for nnp in (0, 1):
            seen = {}
            result = self.run_code(self.zygote(), code, look=lambda pid: seen.update(status_of(pid)), extra=[
                ('uid', 1000), ('gid', 1000), ('no_new_privs', nnp), ('seccomp', seccomp(MKDIR)), ('seccomp_flags', 0)] + CAPS)
            self.assertEqual(result, ('1\n', 0))
            self.assertEqual((seen['NoNewPrivs'], seen['Seccomp']), ([str(nnp)], ['2']))
            self.assertEqual(int(seen['CapPrm'][0], 16), 0x401)

    def test_seccomp_refused(self):
        self.assertEqual(self.refused(self.zygote(), 'seccomp', extra=[('seccomp', '00' * 8), ('no_new_privs', 1)])['errno'], '22')

    def test_dumpable(self):
        self.reachable()
        code = 'import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))'
        self.assertEqual(self.run_code(self.zygote(), code, extra=[('uid', 1000), ('gid', 1000)] + CAPS), ('1\n', 0))

    def test_keyring_and_session(self):
        code = 'import os, ctypes; print(os.getsid(0) == os.getpid(), ctypes.CDLL(None).syscall(%d, 0, -3, 0))' % (
            {'x86_64': 250}.get(os.uname().machine, 219))
        zygote = self.zygote()
        first, second = self.run_code(zygote, code)[0].split(), self.run_code(zygote, code)[0].split()
        self.assertEqual(first[0], 'True')
        if first[1] != '-1':
            self.assertNotEqual(first[1], second[1])

    def test_cwd(self):
        zygote = self.zygote()
        self.assertEqual(self.refused(zygote, 'cwd', cwd='/no/such')['errno'], '2')
        closed = os.path.join(self.top, 'closed')
        os.mkdir(closed, 0o700)
        self.assertEqual(self.run_code(zygote, 'import os; print(os.readlink("/proc/self/cwd"))', cwd=closed,
                                       extra=[('uid', 1000), ('gid', 1000)] + CAPS), (closed + '\n', 0))

    def test_failing_steps(self):
        zygote = self.zygote()
        with open('/dev/null') as null:
            self.assertEqual(self.refused(zygote, 'mount namespace', mounts=null.fileno())['errno'], '22')
            self.assertEqual(self.refused(zygote, 'cgroup', [('cgroups', 1)], [null.fileno()])['errno'], '9')
        self.refused(zygote, 'protocol', [('uid', 0xffffffff), ('gid', 0)])
        self.refused(zygote, 'protocol', [('uid', 0), ('gid', 0), ('group', 0xffffffff)])

    def test_cgroup(self):
        parent = '/sys/fs/cgroup/freezer' if os.path.isdir('/sys/fs/cgroup/freezer') else '/sys/fs/cgroup'
        cgroup = '%s/zygote-test-%d' % (parent, os.getpid())
        os.mkdir(cgroup)
        try:
            with open(cgroup + '/cgroup.procs', 'w') as procs:
                seen = []
                output, status = self.run_code(
                    self.zygote(), 'import os; print(os.readlink("/proc/self/ns/cgroup")); print(open("/proc/self/cgroup").read())',
                    [('cgroups', 1), ('cgroup_ns', 1)], [procs.fileno()], look=lambda pid: seen.append(open(cgroup + '/cgroup.procs').read() == '%d\n' % pid))
                self.assertEqual((seen, status), ([True], 0))
                self.assertNotIn(os.readlink('/proc/self/ns/cgroup'), output)
                self.assertIn(':/\n', output)
        finally:
            os.rmdir(cgroup)

    def test_namespaces(self):
        pod = Namespaces()
        self.addCleanup(pod.end)
        zygote = self.zygote('json')
        names = ('user', 'net', 'ipc', 'uts')
        parked = zygote.park(names, [pod.fds[n] for n in names])
        status = status_of(parked[0])
        self.assertEqual((status['Uid'], status['Gid'], status.get('Groups')), (['700000'] * 4, ['700000'] * 4, []))
        self.assertEqual(status['NSpid'][-1], '1')
        seen = {}

        def look(pid):
            for kind in names + ('mnt',):
                seen[kind] = os.readlink('/proc/%d/ns/%s' % (pid, kind)) == pod.name(kind)
            seen.update(status_of(pid))

        output, status = self.run_code(
            zygote, 'import os; print(os.getpid(), os.getuid(), os.getgroups(), os.uname().nodename, '
            'sorted(l.split(":")[0].strip() for l in list(open("/proc/net/dev"))[2:]))', parked=parked, look=look,
            extra=[('uid', 0), ('gid', 0), ('group', 5), ('no_new_privs', 1), ('seccomp', seccomp(MKDIR))] + CAPS,
            mounts=pod.fds['mnt'])
        self.assertEqual(status, 0, output)
        self.assertTrue(output.startswith("1 0 [5] a-pod ["), output)
        self.assertEqual({k: v for k, v in seen.items() if k in names + ('mnt',)}, dict.fromkeys(names + ('mnt',), True))
        self.assertEqual(int(seen['CapBnd'][0], 16), 0x421)

    def test_pid_namespace(self):
        pod = Namespaces()
        self.addCleanup(pod.end)
        zygote = self.zygote()
        # PID 1 of a first container's namespace, which a second one enters.
        first = zygote.park(['user'], [pod.fds['user']])
        fd = os.open('/proc/%d/ns/pid' % first[0], os.O_RDONLY)
        second = zygote.park(['user', 'pid'], [pod.fds['user'], fd])
        os.close(fd)
        self.assertEqual(status_of(second[0])['NSpid'][-1], '2')
        self.assertEqual(self.run_code(zygote, 'import os; print(os.getpid())', parked=second), ('2\n', 0))
        # PID 1 ends as a plain one does: by the exit code, since no signal of its own reaches it.
        output, status = self.run_code(zygote, 'raise KeyboardInterrupt', parked=first)
        self.assertEqual(os.WEXITSTATUS(status), 130)

    def test_unprivileged_zygote(self):
        """The Zygote without any capability, as it is in the product: it owns the user namespace it enters."""
        self.reachable()
        # Its uid made the namespace, so it has every capability in it (user_namespaces(7)).
        zygote_uid = 300000
        ours, theirs = socket.socketpair()
        holder = os.fork()
        if holder == 0:
            try:
                os.setresgid(zygote_uid, zygote_uid, zygote_uid)
                os.setresuid(zygote_uid, zygote_uid, zygote_uid)
                checked(libc.unshare(NEWUSER), 'unshare')
                ours.close()
                theirs.send(b'1')
                theirs.recv(1)
            finally:
                os._exit(0)
        theirs.close()
        self.assertEqual(ours.recv(1), b'1')
        for kind in ('uid_map', 'gid_map'):
            with open('/proc/%d/%s' % (holder, kind), 'w') as f:
                f.write('0 700000 65536')
        user = os.open('/proc/%d/ns/user' % holder, os.O_RDONLY)
        os.chmod(self.home, 0o777)
        self.zygote(bare=True)  # for its environment
        environment = self.environment
        # The interpreter itself is started by that uid.
        read, write = os.pipe()
        tester = os.fork()
        if tester == 0:
            code = 1
            try:
                os.close(read)
                adopt()
                os.setgroups([])
                os.setresgid(zygote_uid, zygote_uid, zygote_uid)
                os.setresuid(zygote_uid, zygote_uid, zygote_uid)
                zygote = Zygote(PYTHON, environment, ['json'], two_forks=self.two_forks)
                with open('/dev/null') as null:
                    pid, channel, answer = zygote.program(
                        ['python3', '-c', 'import os; print(os.getpid(), os.getuid(), flush=True)'], environment, '/',
                        [null.fileno(), write, write], extra=[('uid', 0), ('gid', 0)] + CAPS,
                        parked=zygote.park(['user'], [user]))
                os.write(write, repr(answer).encode() + b'\n')
                channel.send(pack('go'))
                channel.close()
                os.waitpid(pid, 0)
                zygote.end()
                code = 0
            except BaseException as e:
                os.write(write, repr(e).encode())
            finally:
                os._exit(code)
        os.close(write)
        with open(read) as told:
            output = told.read()
        self.assertEqual(os.waitpid(tester, 0)[1], 0, output)
        os.close(user)
        ours.close()
        os.waitpid(holder, 0)
        self.assertEqual(output, "[('op', 'ready')]\n1 0\n")


class ContainerByTwoForks(Container):
    two_forks = True


class RelayCode(unittest.TestCase):
    @unittest.skipUnless(os.uname().machine == 'x86_64' and shutil.which('objcopy'), 'no assembler for it')
    def test_is_what_its_source_says(self):
        with tempfile.TemporaryDirectory() as top, open(HELPER) as helper:
            compiled, code = os.path.join(top, 'o'), os.path.join(top, 'code')
            subprocess.run(['as', '-o', compiled, os.path.join(os.path.dirname(HELPER), 'relay_x86_64.s')], check=True)
            subprocess.run(['objcopy', '-O', 'binary', '-j', '.text', compiled, code], check=True)
            written = helper.read().split("RELAY = bytes.fromhex({'x86_64': (")[1].split(')}')[0].replace("'", '')
            with open(code, 'rb') as f:
                self.assertEqual(bytes.fromhex(''.join(written.split())), f.read())


if __name__ == '__main__':
    adopt()
    unittest.main()
