# run: python -m app
import sys, traceback, inspect
traceback.print_stack(file=sys.stdout)
print([f.function for f in inspect.stack()])
