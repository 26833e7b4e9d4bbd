# run: python -u app.py "a b" "" c
print(open('/proc/self/cmdline', 'rb').read())
