import sys
sys.stdout.reconfigure(encoding='utf-16-le', line_buffering=True)
print('ab')
