# exit: 1
def inner(x):
    return {}[x]
def outer(x):
    return inner(x + 1)
outer(1)
