import sys
print(sys.getrecursionlimit(), sys.getswitchinterval())
