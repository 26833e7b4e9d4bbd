#!/usr/bin/env python3
"""Real work with the most used packages of PyPI: imported in a Zygote, done in a child, compared with a plain start.

usage: run.py [--python PATH] [--target FOLDER[:FOLDER...]] [--only REGEX] [--table FILE] [--verbose]

--target  where hack/python-packages has put the packages (default: its folder in the cache; where that is missing, those
          that the interpreter has itself are used, and programs without theirs are skipped)
--table   writes a Markdown table of what was seen in front of `<!-- end -->` in FILE, behind `<!-- packages -->`
Programs are files in programs/, written as those of test/differential, which see; each names its package and the modules
that are loaded. `unforkable: REGEX` says why a Zygote with them is none, where it is so: the test fails where it is not.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '../differential'))

from run import Runner, corpus, differences, show, version  # noqa: E402
from testing import Zygote  # noqa: E402


class Loaded(Runner):
    """Of one Zygote at a time, with what one program wants loaded."""

    def load(self, program):
        self.current = Zygote(self.python, program.environment(self.python, self.top), None)
        self.current.ask('hello')
        answer = self.current.ask('load', *[('module', m) for m in program.load])
        missing = [value for key, value in answer if key == 'missing']
        if missing:
            raise RuntimeError('not loaded: ' + ', '.join(missing))
        return dict(answer)

    def zygote(self, environment):
        return self.current


def versions(python, path):
    """Of the packages that the interpreter finds, by their normalised names."""
    code = 'import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata["Name"], d.version)'
    listed = subprocess.run([python, '-c', code], env={'PYTHONPATH': ':'.join(path)}, capture_output=True, text=True, check=True)
    found = {}
    for line in listed.stdout.splitlines():
        name, number = line.split()
        found.setdefault(re.sub(r'[-_.]+', '-', name).lower(), number)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--python', default=sys.executable)
    parser.add_argument('--target')
    parser.add_argument('--only', default='')
    parser.add_argument('--table')
    parser.add_argument('--verbose', action='store_true')
    options = parser.parse_args()
    python = os.path.abspath(shutil.which(options.python))
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    target = options.target or os.path.join(cache, 'cri-sock', 'packages-%d.%d' % version(python))
    path = [os.path.join(HERE, 'lib')]
    complete = False  # with all that they need themselves
    for folder in target.split(':'):
        if os.path.isdir(folder):
            path.insert(-1, folder)
            complete = True
        elif options.target:
            parser.error('%s is missing' % folder)
    installed = versions(python, path)
    runner = Loaded(python, None)
    rows, passed, failed, skipped = [], 0, 0, 0
    try:
        for program in corpus(os.path.join(HERE, 'programs')):
            if not re.search(options.only, program.name):
                continue
            if program.package not in installed:
                print('SKIPPED %s: not installed' % program.name)
                skipped += 1
                continue
            temporary = os.path.join(runner.top, 'tmp')
            shutil.rmtree(temporary, ignore_errors=True)
            os.mkdir(temporary)
            program.env += ['PYTHONPATH=' + ':'.join(path), 'TMPDIR=' + temporary, 'PYTHONDONTWRITEBYTECODE=1']
            wrong, reason, milliseconds = [], '', ''
            try:
                answer = runner.load(program)
                milliseconds = answer['milliseconds']
                reason = answer.get('reason', '')
                if not re.search(program.unforkable or '^$', reason):
                    wrong.append('forkable: %s %s' % (answer['forkable'], reason))
                if answer['forkable'] == 'yes':
                    plain, forked = runner.both(program)
                    wrong += differences(plain, forked)
                    if plain[0] != program.exit and not wrong and not complete:
                        print('SKIPPED %s: what it needs is not installed' % program.name)
                        skipped += 1
                        continue
                    if plain[0] != program.exit:
                        wrong.append('the plain start exits with %d\n%s' % (plain[0], show(plain[2])))
                    if options.verbose:
                        print('%s: %s' % (program.name, show(plain)))
            except RuntimeError as error:
                wrong.append(str(error))
            finally:
                runner.current.end()
            if wrong:
                failed += 1
                print('FAILED %s: %s' % (program.name, '\n'.join(wrong)), flush=True)
            else:
                passed += 1
            seconds = ['%d' % (s * 1000) for s in runner.seconds] if not reason else ['', '']
            rows.append([program.package, installed[program.package], ', '.join('`%s`' % m for m in program.load), milliseconds,
                         'no: ' + reason if reason else 'yes', 'no' if wrong else '' if reason else 'yes'] + seconds)
    finally:
        runner.end()
    if options.table:
        write(options.table, rows)
    print('%d passed, %d failed, %d skipped' % (passed, failed, skipped))
    return 1 if failed or not passed + skipped else 0


def write(path, rows):
    with open(path) as f:
        text = f.read()
    head = ['package', 'version', 'loaded', 'import, ms', 'forkable', 'same result', 'plainly, ms', 'forked, ms']
    lines = ['| %s |' % ' | '.join(row) for row in [head, ['---'] * 3 + ['--:', '---', '---', '--:', '--:']] + rows]
    begin, rest = text.split('<!-- packages -->\n')
    with open(path, 'w') as f:
        f.write(begin + '<!-- packages -->\n' + '\n'.join(lines) + '\n<!-- end -->' + rest.split('<!-- end -->')[1])


if __name__ == '__main__':
    sys.exit(main())
