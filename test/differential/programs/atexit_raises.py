import atexit
def f(): raise ValueError('at the end')
atexit.register(print, 'still')
atexit.register(f)
