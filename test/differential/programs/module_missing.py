# run: python -m no_such_module
# exit: 1
