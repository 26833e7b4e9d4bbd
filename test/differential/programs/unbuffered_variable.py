# env: PYTHONUNBUFFERED=1
import sys, os
print(sys.stdout.write_through, sys.stdout.line_buffering, os.environ['PYTHONUNBUFFERED'])
os._exit(0)
