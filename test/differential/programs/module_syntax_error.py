# run: python -m bad
# exit: 1
#==== bad.py
def f(:
    pass
