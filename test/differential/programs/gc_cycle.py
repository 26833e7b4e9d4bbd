import gc, weakref
class A: pass
a = A()
a.me = a
w = weakref.ref(a, lambda r: print('gone'))
del a
gc.collect()
print(w())
