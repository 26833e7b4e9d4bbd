import sys
try:
    1 / 0
except ZeroDivisionError:
    pass
print(hasattr(sys, 'last_type'), hasattr(sys, 'last_value'), sys.exc_info())
