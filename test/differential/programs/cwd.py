import os
print(os.getcwd(), os.path.realpath('/proc/self/cwd'), os.environ.get('PWD'))
