# run: python -m pkg
# exit: 1
#==== pkg/__init__.py
