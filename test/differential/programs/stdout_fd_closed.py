# exit: 120
import sys, os
print('unsaved')
os.close(1)
