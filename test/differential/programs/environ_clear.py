import os
os.environ.clear()
print(dict(os.environ))
os.system('/usr/bin/env | grep -v ^PWD= | grep -v ^SHLVL= | grep -v ^_=')
