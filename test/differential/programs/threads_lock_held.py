import threading
l = threading.RLock()
with l:
    print(l.acquire(blocking=False))
c = threading.Condition()
with c:
    print(c.wait(0.01))
