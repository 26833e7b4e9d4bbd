# exit: 1
import sys
def hook(*a): raise TypeError('in the hook')
sys.excepthook = hook
1 / 0
