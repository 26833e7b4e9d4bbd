# env: LC_ALL=C
import sys, os
print(sys.stdout.encoding, sys.stdout.errors, sys.stdin.errors, sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
print(sorted(os.environ.items()) if False else [k for k in os.environ if k.startswith('L')])
print('\udcff')
