import a
print(a.y, a.b.x)
#==== a.py
import b
y = 1
#==== b.py
import a
x = getattr(a, 'y', 'not yet')
