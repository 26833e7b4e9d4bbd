import importlib, sys, os
os.mkdir('late')
sys.path.append('late')
open('late/made.py', 'w').write('x = 1')
importlib.invalidate_caches()
import made
print(made.x, made.__file__)
