# run: python -c SOURCE
import sys, traceback
traceback.print_stack(file=sys.stdout)
try:
    print(sys._getframe(1))
except ValueError as e:
    print(e)
