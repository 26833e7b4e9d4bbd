#!/usr/bin/env python3
"""Runs each program of the corpus twice, plainly and through a Zygote, and compares what comes out.

usage: run.py [--python PATH] [--load MODULE,...] [--only REGEX] [--list] [--json] [--verbose]

--python   the interpreter that runs the programs (default: this one)
--load     modules that the Zygote has loaded; programs marked `bare` are left out then
--json     the corpus as JSON, for whoever runs it by other means: name, argv, env, stdin, exit, files
The Zygote is zygote/python/zygote.py, without namespaces; this program plays the monitor.

A program is one file in programs/. Its first lines say how it is run, `# KEY: VALUE` each:
  run     the command line; `python` is the interpreter, SOURCE the text of the program (default: python app.py)
  env     NAME=VALUE, once for each, beside PATH, HOME and LANG
  stdin   what standard input holds, as in a Python string (default: nothing)
  stdout  pipe (default), file or null: what standard output and error are
  exit    the exit status; -N for signal N (default: 0)
  min     the oldest version of Python it runs on
  bare    anything: only where nothing is loaded in the Zygote
  needs   modules without which it is left out
  python  the version of Python it is for, where it is for one only
  load    modules that the Zygote has loaded (test/packages)
  package, unforkable   see test/packages
The text is app.py in an empty working directory; a line `#==== PATH` begins another file there, `#==== PATH x` an
executable one. PYTHON in a first line `#!PYTHON` is the interpreter's path.
"""
import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '../../zygote/python'))

from testing import Zygote, adopt, pack  # noqa: E402

SELECTS = re.compile(r'(PYTHON|LANG|LC_|LD_|MALLOC_|PATH=|HOME=)(?!UNBUFFERED)')
ADDRESS = re.compile(rb'0x[0-9a-f]{6,}|(?<=started )\d{8,}|(?<=stopped )\d{8,}|(?<= in )\d+\.\d+(?=s)')  # of objects and threads, and times: chance
TIMEOUT = 60


class Program:
    def __init__(self, name, source):
        self.name = name
        self.run, self.stdin, self.stdout, self.exit, self.min, self.only = 'python app.py', b'', 'pipe', 0, (3, 9), None
        self.env, self.needs, self.load, self.package, self.unforkable, self.bare = [], [], [], None, None, False
        self.files = {}
        head, *others = re.split(r'(?m)^#==== (.*)\n', source)
        self.files['app.py'] = (head, False)
        for path, content in zip(others[::2], others[1::2]):
            path, _, executable = path.partition(' ')
            self.files[path] = (content, bool(executable))
        for line in head.split('\n'):
            if line.startswith('#!'):
                self.files['app.py'] = (head, True)
                continue
            match = re.match(r'# (\w+): ?(.*)$', line)
            if not match:
                break
            key, value = match.groups()
            if key == 'env':
                self.env.append(value)
            elif key == 'stdin':
                self.stdin = eval('"%s"' % value.replace('"', '\\"')).encode('latin-1')
            elif key == 'exit':
                self.exit = int(value)
            elif key == 'min':
                self.min = tuple(int(n) for n in value.split('.'))
            elif key == 'python':
                self.only = tuple(int(n) for n in value.split('.'))
            elif key in ('needs', 'load'):
                setattr(self, key, value.split())
            elif key == 'bare':
                self.bare = True
            elif key in ('run', 'stdout', 'package', 'unforkable'):
                setattr(self, key, value)
            else:
                raise ValueError('%s: unknown key `%s`' % (name, key))

    def argv(self, python):
        words = shlex.split(self.run)
        return [python if w == 'python' else self.files['app.py'][0] if w == 'SOURCE' else w for w in words]

    def environment(self, python, home):
        usual = {'PATH': '%s:/usr/local/bin:/usr/bin:/bin' % os.path.dirname(python), 'HOME': home}
        if not any(e.startswith(('LANG=', 'LC_')) for e in self.env):
            usual['LANG'] = 'C.UTF-8'
        usual.update(e.split('=', 1) for e in self.env)
        return ['%s=%s' % pair for pair in usual.items()]

    def lay(self, folder, python):
        for path, (content, executable) in self.files.items():
            path = os.path.join(folder, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8', errors='surrogateescape') as f:
                f.write(content.replace('PYTHON', python) if content.startswith('#!') else content)
            os.chmod(path, 0o755 if executable else 0o644)
            os.utime(path, (1700000000, 1700000000))


def corpus(folder=os.path.join(HERE, 'programs')):
    for name in sorted(os.listdir(folder)):
        if name.endswith('.py'):
            with open(os.path.join(folder, name), encoding='utf-8', errors='surrogateescape') as f:
                yield Program(name[:-3], f.read())


def resolve(argv, python, cwd):
    """What execve(2) makes of a script: the interpreter of its first line in front. With it, /proc/self/comm."""
    if argv[0] == python:
        return argv, None
    with open(os.path.join(cwd, argv[0])) as f:
        line = f.readline()[2:].split()
    if os.path.basename(line[0]) == 'env':
        line = line[1:]
        return [python if line[0] == 'python' else line[0]] + [argv[0]] + argv[1:], os.path.basename(python)
    return line + argv, os.path.basename(argv[0])


class Runner:
    def __init__(self, python, modules):
        self.python, self.modules = python, modules
        self.zygotes = {}
        self.top = tempfile.mkdtemp(prefix='differential-')
        self.work = os.path.join(self.top, 'work')
        adopt()

    def zygote(self, environment):
        key = tuple(e for e in environment if SELECTS.match(e))
        if key not in self.zygotes:
            # A relative PYTHONPATH is made absolute when the interpreter starts.
            cwd = self.work if any(e.startswith('PYTHONPATH=') for e in key) else '/'
            self.zygotes[key] = Zygote(self.python, key, self.modules, cwd)
        return self.zygotes[key]

    def end(self):
        for zygote in self.zygotes.values():
            zygote.end()
        shutil.rmtree(self.top)

    def both(self, program):
        results, self.seconds = [], []
        environment = program.environment(self.python, self.top)
        for plain in (True, False):
            shutil.rmtree(self.work, ignore_errors=True)
            os.mkdir(self.work)
            program.lay(self.work, self.python)
            argv = program.argv(self.python)
            stdin = tempfile.TemporaryFile(dir=self.top)
            stdin.write(program.stdin)
            stdin.seek(0)
            outputs = [tempfile.TemporaryFile(dir=self.top) for _ in range(2)]
            ends, readers = [], []
            for output in outputs:
                if program.stdout == 'pipe':
                    r, w = os.pipe()
                    # `cat` empties the pipe into the file: no program is ever held up by us.
                    readers.append(subprocess.Popen(['cat'], stdin=r, stdout=output))
                    os.close(r)
                    ends.append(w)
                elif program.stdout == 'null':
                    ends.append(os.open('/dev/null', os.O_RDWR))
                else:
                    ends.append(os.dup(output.fileno()))
            stdio = [stdin.fileno()] + ends
            begin = time.monotonic()
            if plain:
                pid = self.plain(argv, environment, stdio)
            else:
                argv, comm = resolve(argv, self.python, self.work)
                pid, channel, answer = self.zygote(environment).program(argv, environment, self.work, stdio, comm)
                if answer[0][1] == 'ready':
                    channel.send(pack('go'))
                    channel.close()
                else:
                    outputs[1].write(repr(answer).encode())
            for end in ends:
                os.close(end)
            status = self.wait(pid)
            self.seconds.append(time.monotonic() - begin)
            for reader in readers:
                reader.wait()
            told = []
            for output in outputs:
                output.seek(0)
                told.append(output.read())
                output.close()
            stdin.close()
            results.append((status, told[0], told[1]))
        return results

    def plain(self, argv, environment, stdio):
        pid = os.fork()
        if pid:
            return pid
        try:
            os.chdir(self.work)
            os.setsid()
            os.umask(0o022)
            for n, fd in enumerate([os.dup(fd) for fd in stdio]):
                os.dup2(fd, n)
            os.closerange(3, 256)
            for n in range(1, signal.NSIG):
                try:
                    signal.signal(n, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass
            os.execve(argv[0], argv, dict(e.split('=', 1) for e in environment))
        except OSError as e:
            os.write(2, str(e).encode())
        finally:
            os._exit(127)

    def wait(self, pid):
        signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
        signal.alarm(TIMEOUT)
        status = os.waitpid(pid, 0)[1]
        signal.alarm(0)
        status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        try:
            while True:  # what it left behind is ours now
                left, _ = os.waitpid(-1, os.WNOHANG)
                if left == 0:
                    break
        except ChildProcessError:
            pass
        return status


def version(python):
    out = subprocess.run([python, '-c', 'import sys; print(sys.version_info[:2])'], capture_output=True, text=True, check=True)
    return eval(out.stdout)


def has(python, modules):
    return not modules or subprocess.run([python, '-c', 'import ' + ', '.join(modules)], capture_output=True).returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--python', default=sys.executable)
    parser.add_argument('--load', default='')
    parser.add_argument('--only', default='')
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--verbose', action='store_true')
    options = parser.parse_args()
    programs = [p for p in corpus() if re.search(options.only, p.name)]
    if options.list:
        print('\n'.join(p.name for p in programs))
        return 0
    if options.json:
        json.dump([{'name': p.name, 'argv': p.argv('python'), 'env': p.env, 'stdin': p.stdin.decode('latin-1'),
                    'exit': p.exit, 'stdout': p.stdout, 'bare': p.bare, 'needs': p.needs, 'min': p.min,
                    'files': {k: {'text': v[0], 'executable': v[1]} for k, v in p.files.items()}}
                   for p in programs], sys.stdout, indent=1)
        return 0
    python = os.path.abspath(shutil.which(options.python))
    modules = [m for m in options.load.split(',') if m]
    runner = Runner(python, modules)
    now = version(python)
    passed = failed = skipped = 0
    try:
        for program in programs:
            if now < program.min or program.only and now != program.only or program.bare and modules or not has(
                    python, program.needs):
                skipped += 1
                continue
            plain, forked = runner.both(program)
            wrong = []
            if plain[0] != program.exit:
                wrong.append('the plain start exits with %d, not %d' % (plain[0], program.exit))
            wrong += differences(plain, forked)
            if wrong:
                failed += 1
                print('FAILED %s: %s' % (program.name, '\n'.join(wrong)))
                if wrong[0].startswith('the plain'):
                    print('  stderr: ' + show(plain[2]))
            else:
                passed += 1
                if options.verbose:
                    print('%s: %s' % (program.name, show(plain)))
    finally:
        runner.end()
    print('%d passed, %d failed, %d skipped' % (passed, failed, skipped))
    return 1 if failed or not passed else 0


def differences(plain, forked):
    """What two results of Runner.both() do not share, in words."""
    return ['%s\n  plain:  %s\n  forked: %s' % (what, show(a), show(b))
            for what, a, b in zip(('status', 'stdout', 'stderr'), plain, forked)
            if (ADDRESS.sub(b'0x', a) != ADDRESS.sub(b'0x', b) if isinstance(a, bytes) else a != b)]


def show(value):
    if not isinstance(value, bytes):
        return str(value)
    return '\n          '.join(value.decode('utf-8', 'backslashreplace').split('\n'))


if __name__ == '__main__':
    sys.exit(main())
