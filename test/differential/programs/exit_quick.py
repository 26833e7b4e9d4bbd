# exit: 9
import os, atexit
atexit.register(print, 'never')
os._exit(9)
