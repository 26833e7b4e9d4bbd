# exit: 1
def f():
    try:
        1 / 0
    except ZeroDivisionError as e:
        raise KeyError('chained') from e
f()
