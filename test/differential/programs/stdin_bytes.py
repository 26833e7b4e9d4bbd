# stdin: \x00\xff\r\n\x80
import sys
print(sys.stdin.buffer.read())
