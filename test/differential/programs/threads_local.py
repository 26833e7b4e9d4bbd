import threading
l = threading.local()
l.x = 1
def f(): print(hasattr(l, 'x'))
t = threading.Thread(target=f)
t.start()
t.join()
print(l.x)
