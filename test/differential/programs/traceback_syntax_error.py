# run: python bad.py
# exit: 1
#==== bad.py
print('never')
if True
    pass
