import threading
out = []
ts = [threading.Thread(target=out.append, args=(i,)) for i in range(5)]
for t in ts: t.start()
for t in ts: t.join()
print(sorted(out), threading.main_thread(), threading.current_thread() is threading.main_thread(), threading.active_count(), threading.enumerate())
