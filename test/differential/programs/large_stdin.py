# stdin: abc\n
import sys
print(len(sys.stdin.read()))
