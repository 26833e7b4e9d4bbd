# exit: 1
raise ValueError(
    'first\n'
    'second')
