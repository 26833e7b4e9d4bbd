# run: python -B app.py
import sys, os, friend
print(sys.dont_write_bytecode, sys.flags.dont_write_bytecode, sorted(os.listdir('.')))
import subprocess
print(subprocess._args_from_interpreter_flags())
#==== friend.py
