import friend
friend.f()
#==== friend.py
import warnings
def f(): warnings.warn('old', DeprecationWarning, stacklevel=2)
