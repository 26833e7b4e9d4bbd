import os
print(len(os.listdir('/proc/self/task')), open('/proc/self/task/%d/children' % os.getpid()).read())
