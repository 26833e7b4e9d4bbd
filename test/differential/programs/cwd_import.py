import os, sys
os.chdir('sub')
import app2
#==== app2.py
print('beside the script')
#==== sub/app2.py
print('in the working directory')
