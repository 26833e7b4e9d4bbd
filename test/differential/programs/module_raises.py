# run: python -m app
# exit: 1
def f():
    raise ValueError('in a module')
f()
