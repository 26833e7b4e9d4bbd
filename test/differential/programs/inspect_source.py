import inspect, sys
def f(a, *, b=1):
    "doc"
    return a + b
print(inspect.getsource(f), inspect.getsourcefile(f), inspect.signature(f), inspect.getmodule(f) is sys.modules['__main__'])
class C:
    pass
print(inspect.getsource(C), inspect.getfile(sys.modules['__main__']))
