# run: python -c "  print(1)"
# exit: 1
# python: 3.11
