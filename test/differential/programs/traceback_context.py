# exit: 1
try:
    [].pop()
except IndexError:
    open('/no/such')
