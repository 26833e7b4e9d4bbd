import os
old = os.umask(0)
print(oct(old))
os.umask(old)
open('f', 'w').close()
print(oct(os.stat('f').st_mode))
