import threading, time
def f():
    while True:
        time.sleep(1)
threading.Thread(target=f, daemon=True).start()
print('main ends')
