# run: python bad.py
# exit: 1
#==== bad.py
# -*- coding: no-such-codec -*-
print(1)
