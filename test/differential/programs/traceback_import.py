# exit: 1
import outer
#==== outer.py
import inner
#==== inner.py
raise RuntimeError('while imported')
