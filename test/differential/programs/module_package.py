# run: python -m pkg a
#==== pkg/__init__.py
print('init', __name__)
#==== pkg/__main__.py
import sys
from . import other
print(sys.argv, __name__, __package__, __spec__.name, other.__name__, sys.path[0])
print(sorted(m for m in sys.modules if m.startswith('pkg')))
#==== pkg/other.py
print('other')
