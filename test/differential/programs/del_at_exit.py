class A:
    def __init__(self, n): self.n = n
    def __del__(self): print('del', self.n)
a = A('global')
def f():
    b = A('local')
f()
class B: pass
b = B()
b.cycle = [b, A('cycle')]
