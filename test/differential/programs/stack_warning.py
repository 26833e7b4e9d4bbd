import warnings
def f():
    warnings.warn('deep', stacklevel=5)
f()
warnings.warn('here')
