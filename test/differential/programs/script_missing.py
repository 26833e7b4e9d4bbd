# run: python nothing.py
# exit: 2
