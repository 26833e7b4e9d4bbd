import ctypes
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), ctypes.CDLL(None).prctl(7, 0, 0, 0, 0))
