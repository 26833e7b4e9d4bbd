# run: python -m pkg.sub.tool x y
#==== pkg/__init__.py
#==== pkg/sub/__init__.py
#==== pkg/sub/tool.py
import sys
print(sys.argv, __package__, __spec__.parent, __spec__.name)
