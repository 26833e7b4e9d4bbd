# exit: 1
raise ValueError('grün 字 \U0001f600')
