# run: python empty.py
#==== empty.py
