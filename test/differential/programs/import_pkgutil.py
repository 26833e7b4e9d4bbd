import pkgutil, pkg
print([m.name for m in pkgutil.iter_modules(pkg.__path__)], pkgutil.get_data('pkg', 'a.py'))
#==== pkg/__init__.py
#==== pkg/a.py
x = 1
#==== pkg/b.py
