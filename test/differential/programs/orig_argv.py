# min: 3.10
# run: python -u app.py x
import sys
print(sys.orig_argv)
