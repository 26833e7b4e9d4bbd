import faulthandler, sys
def f(): faulthandler.dump_traceback()
f()
