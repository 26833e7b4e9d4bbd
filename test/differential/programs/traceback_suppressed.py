# exit: 1
try:
    [].pop()
except IndexError:
    raise ValueError('alone') from None
