import importlib.resources, pkg
print((importlib.resources.files(pkg) / 'data.txt').read_text())
#==== pkg/__init__.py
#==== pkg/data.txt
some data
