# exit: -15
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
