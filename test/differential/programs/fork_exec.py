import os, sys
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, '-c', 'import sys; print(sys.argv, open("/proc/self/comm").read())', 'x'])
