# exit: -2
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(5)
