# run: python warn.py
#==== warn.py
x = 1
print(x is 1)
