import sys
print(sys.flags, sys.warnoptions, sys._xoptions)
