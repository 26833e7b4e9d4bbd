# run: python -c SOURCE
from __future__ import annotations
def f(x: undefined) -> also: pass
print(f.__annotations__)
