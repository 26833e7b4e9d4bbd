import signal, time
class Late(Exception): pass
def handler(*a): raise Late
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    time.sleep(10)
except Late:
    print('late')
