# run: python -m cProfile -s name app.py
import sys
print(sys.argv, __name__)
def f(): pass
f()
sys.stdout.flush()
import os
os._exit(0)
