# run: python -c "x = 'ÿ'"
# exit: 1
