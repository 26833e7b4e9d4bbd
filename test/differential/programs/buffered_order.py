import sys, os
sys.stdout.write('later')
sys.stderr.write('line\n')
os.write(1, b'first\n')
