# run: python ./lib/../lib/tool.py
#==== lib/tool.py
import sys
print(sys.path[0], sys.argv, __file__)
