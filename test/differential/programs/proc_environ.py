# env: A=1
# env: B=2
print(open('/proc/self/environ', 'rb').read().split(b'\0')[2:])
