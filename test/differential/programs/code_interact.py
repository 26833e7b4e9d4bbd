# run: python -m code
# stdin: print(1 + 1)\nexit()\n
# exit: 0
