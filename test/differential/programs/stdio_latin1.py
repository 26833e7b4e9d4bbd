# env: PYTHONIOENCODING=latin-1:replace
import sys
print(sys.stdout.encoding, sys.stdout.errors, sys.stderr.encoding, sys.stderr.errors, sys.stdin.errors)
print('grün €')
print('grün €', file=sys.stderr)
