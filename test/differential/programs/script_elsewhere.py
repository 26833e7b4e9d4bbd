# run: python lib/tool.py
#==== lib/tool.py
import sys, os, friend
print(os.path.relpath(sys.path[0]), sys.argv, os.path.relpath(__file__), friend.x)
#==== lib/friend.py
x = 'found'
