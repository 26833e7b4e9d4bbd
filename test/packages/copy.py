#!/usr/bin/env python3
"""Copies packages, and all that they require, out of the folder of hack/python-packages.

usage: copy.py FROM TO PACKAGE…
"""
import importlib.metadata
import os
import re
import shutil
import sys


def required(distributions, name, found):
    name = re.sub(r'[-_.]+', '-', name).lower()
    if name in found or name not in distributions:
        return
    found.add(name)
    for text in distributions[name].requires or ():
        if 'extra ==' not in text:
            required(distributions, re.match(r'[\w.-]+', text)[0], found)


def main():
    source, target, *names = sys.argv[1:]
    distributions = {re.sub(r'[-_.]+', '-', d.metadata['Name']).lower(): d for d in importlib.metadata.distributions(path=[source])}
    found = set()
    for name in names:
        if name not in distributions:
            sys.exit('copy.py: `%s` is not in %s' % (name, source))
        required(distributions, name, found)
    for name in sorted(found):
        for file in distributions[name].files:
            if '..' not in file.parts:
                path = os.path.join(target, file)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.copy2(os.path.join(source, file), path)


if __name__ == '__main__':
    main()
