import weakref
class A: pass
gone = []
for i in range(20000):
    a = A()
    a.me = a
    weakref.finalize(a, gone.append, i)
print(len(gone) > 10000)
