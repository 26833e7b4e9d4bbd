import atexit, sys
def f(): sys.exit(6)
atexit.register(f)
