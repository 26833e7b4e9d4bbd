# run: python -m pkg.app
# exit: 1
#==== pkg/__init__.py
import no_such_thing
#==== pkg/app.py
print('never')
