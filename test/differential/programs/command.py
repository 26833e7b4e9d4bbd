# run: python -c SOURCE a b
import sys
print(sys.argv, __name__, sys.path[0] == '', globals().get('__file__'), __spec__, __loader__)
print(list(globals()))
