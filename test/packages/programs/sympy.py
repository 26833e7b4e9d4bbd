# package: sympy
# load: sympy
import sympy
from sympy.abc import x, y

print(sympy.integrate(sympy.exp(-x ** 2) * x, (x, 0, sympy.oo)), sympy.solve([x ** 2 + y - 3, x - y], [x, y]))
print(sympy.factor(x ** 4 - 1), sympy.diff(sympy.sin(x) ** 2, x), sympy.Matrix([[2, 1], [1, 3]]).eigenvals(), sympy.pi.evalf(30))
print(sympy.latex(sympy.series(sympy.cos(x), x, 0, 6)), sympy.lambdify(x, x ** 2 + 1)(3))
