# run: python lib
# exit: 1
#==== lib/x.py
