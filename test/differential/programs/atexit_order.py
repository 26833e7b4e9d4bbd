import atexit
for i in range(3):
    atexit.register(print, i)
print('main')
