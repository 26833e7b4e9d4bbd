# run: ./tool a
#==== tool x
#!PYTHON -u
import sys
print(sys.argv, sys.stdout.write_through)
