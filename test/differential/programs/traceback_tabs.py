# run: python bad.py
# exit: 1
#==== bad.py
if 1:
        x = 1
	y = 2
