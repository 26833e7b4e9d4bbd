import atexit, threading, time
def work():
    time.sleep(0.05)
    print('thread')
atexit.register(print, 'atexit')
threading.Thread(target=work).start()
print('main')
