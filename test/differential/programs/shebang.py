#!PYTHON
# run: ./app.py a b
import sys
print(sys.argv, sys.path[0], __file__)
print(open('/proc/self/cmdline').read().split('\0'), open('/proc/self/comm').read())
