# exit: 1
# min: 3.11
raise ExceptionGroup('many', [ValueError(1), ExceptionGroup('in', [KeyError('k')])])
