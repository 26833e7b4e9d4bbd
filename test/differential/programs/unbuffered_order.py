# run: python -u app.py
# stdout: file
import sys, os
for i in range(3):
    sys.stdout.write('o%d' % i)
    os.write(1, b'raw')
    sys.stderr.write('e')
