# exit: 8
import sys
sys.excepthook = lambda *a: sys.exit(8)
1 / 0
