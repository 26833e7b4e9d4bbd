# stdin: a\r\nb\r\n
import sys
print(repr(sys.stdin.read()))
