# env: PYTHONIOENCODING=utf-8:strict
# exit: 1
print('\udcff')
