# env: A=from-libc
import ctypes
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
print(libc.getenv(b'A'), libc.getenv(b'NOTHING'))
libc.setenv(b'A', b'changed', 1)
print(libc.getenv(b'A'))
