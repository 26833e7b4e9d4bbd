# bare: yes
import atexit
print(atexit._ncallbacks())
