# run: python -c SOURCE
# exit: 1
def f(x):
    return 1 / x
f(0)
