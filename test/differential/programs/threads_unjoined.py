import threading, time
def f():
    time.sleep(0.05)
    print('joined at the end', threading.main_thread().is_alive())
threading.Thread(target=f).start()
