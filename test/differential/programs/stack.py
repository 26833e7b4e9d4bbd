import sys, traceback, inspect
traceback.print_stack()
print(len(inspect.stack()), sys._getframe().f_back, len(traceback.extract_stack()))
def f():
    traceback.print_stack(file=sys.stdout)
    return sys._getframe().f_back.f_code.co_name
print(f())
