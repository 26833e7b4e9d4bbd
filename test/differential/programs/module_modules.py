# run: python -m app
# bare: yes
import sys
print(sorted(sys.modules))
