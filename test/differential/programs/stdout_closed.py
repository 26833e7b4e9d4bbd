# exit: 0
import sys
print('before')
sys.stdout.close()
