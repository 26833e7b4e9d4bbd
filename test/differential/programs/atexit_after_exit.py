# exit: 3
import atexit, sys
atexit.register(lambda: print('bye', sys.exc_info()))
sys.exit(3)
