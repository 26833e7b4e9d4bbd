# run: python -m app
# exit: -2
raise KeyboardInterrupt
