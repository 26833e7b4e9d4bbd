# exit: 1
import atexit
atexit.register(print, 'the end')
1 / 0
