import os, sys
print(os.path.realpath('/proc/self/exe') == os.path.realpath(sys.executable))
