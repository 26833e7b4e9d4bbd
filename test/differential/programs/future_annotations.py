from __future__ import annotations
def f(x: undefined): pass
print(f.__annotations__)
