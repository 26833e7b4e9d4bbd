import ctypes, sys
class S(ctypes.Structure):
    _fields_ = [('a', ctypes.c_int), ('b', ctypes.c_double)]
print(ctypes.sizeof(S), S(1, 2.0).b, ctypes.CDLL(None).abs(-3), ctypes.POINTER(ctypes.c_int) is ctypes.POINTER(ctypes.c_int))
CB = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
print(CB(lambda x: x + 1)(4), ctypes.get_errno(), ctypes.pythonapi.Py_GetVersion is not None)
