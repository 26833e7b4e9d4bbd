import atexit, sys, threading
def f():
    print(threading.current_thread(), __name__, sys.argv, '__file__' in globals(), sys._getframe(0).f_code.co_name)
    try:
        print(sys._getframe(1))
    except ValueError as e:
        print(e)
atexit.register(f)
