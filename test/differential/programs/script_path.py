import sys, os
print(sys.path[0] == os.getcwd(), len(sys.path), sys.path[1:])
