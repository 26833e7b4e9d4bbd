import threading
print(threading.Thread().name, threading.Thread().name)
