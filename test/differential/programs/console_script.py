# run: ./bin/tool --x 1
#==== bin/tool x
#!PYTHON
# -*- coding: utf-8 -*-
import re
import sys
sys.path.insert(0, '.')
from tools.cli import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])
    sys.exit(main())
#==== tools/__init__.py
#==== tools/cli.py
import argparse, sys
def main():
    p = argparse.ArgumentParser()
    p.add_argument('--x', type=int)
    print(p.prog, p.parse_args(), sys.argv)
    return 5 - 5
