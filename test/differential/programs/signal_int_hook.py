# exit: -2
import sys
def hook(kind, value, trace):
    print('hook', kind.__name__)
sys.excepthook = hook
raise KeyboardInterrupt
