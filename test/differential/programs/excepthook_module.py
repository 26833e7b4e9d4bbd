# run: python -m app
# exit: 1
import sys, traceback
def hook(kind, value, trace):
    print('hook', kind.__name__, value, [f.name for f in traceback.extract_tb(trace)], sys.last_type.__name__)
    traceback.print_stack(file=sys.stdout)
sys.excepthook = hook
def f(): raise ValueError('x')
f()
