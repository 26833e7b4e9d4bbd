# run: python -c SOURCE
# bare: yes
import sys
print(sorted(sys.modules))
