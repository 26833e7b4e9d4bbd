import sys, os
sys.stdout.write('lost')
sys.stderr.write('kept, without a newline')
os._exit(0)
