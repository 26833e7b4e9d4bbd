# run: python lib a
#==== lib/__main__.py
import sys, friend
print(sys.argv, sys.path[0], __file__, __package__, __spec__.name, __name__, friend.__file__)
#==== lib/friend.py
