# More callbacks than fit where libffi's first ones are, each called, with files open.
import ctypes

files = [open('/dev/null') for _ in range(20)]
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
callbacks = [kind(lambda n, i=i: n + i) for i in range(1000)]
print(sum(callback(1) for callback in callbacks))
print(all(file.read() == "" for file in files))
