import sys
print('\udcff ü', file=sys.stderr)
