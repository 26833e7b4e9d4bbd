# exit: 1
assert 1 == 2, 'not equal'
