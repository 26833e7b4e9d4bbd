class A:
    def __del__(self):
        raise ValueError('in del')
def f():
    A()
f()
print('goes on')
