# run: python -m no.such.module
# exit: 1
