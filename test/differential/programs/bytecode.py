import sys, os, friend
print(sys.dont_write_bytecode, sys.flags.dont_write_bytecode, sorted(os.listdir('.')), len(os.listdir('__pycache__')))
#==== friend.py
