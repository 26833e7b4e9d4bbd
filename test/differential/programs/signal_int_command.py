# run: python -c "raise KeyboardInterrupt('now')"
# exit: -2
