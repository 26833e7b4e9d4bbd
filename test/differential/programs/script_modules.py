# bare: yes
import sys
print(sorted(sys.modules))
