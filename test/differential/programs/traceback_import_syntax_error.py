# exit: 1
import bad
#==== bad.py
x = = 1
