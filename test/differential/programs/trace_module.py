# run: python -m trace --listfuncs app.py
print('traced')
import os
os._exit(0)
