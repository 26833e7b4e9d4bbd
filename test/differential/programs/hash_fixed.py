# env: PYTHONHASHSEED=1
import sys
print(hash('abc'), sys.flags.hash_randomization, list({'a', 'b', 'c', 'd'}))
