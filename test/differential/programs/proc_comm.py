import threading
print(open('/proc/self/comm').read(), open('/proc/self/task/%d/comm' % threading.get_native_id()).read())
