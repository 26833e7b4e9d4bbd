# run: python bad.py
# exit: 1
#==== bad.py
def f():
x = 1
