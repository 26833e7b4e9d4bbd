# run: python -m app a b
import sys
print(sys.argv, __name__, __file__, __spec__.name, __spec__.origin, __package__, __loader__.name, sys.path[0])
print(sorted(k for k in globals() if k.startswith('__')))
