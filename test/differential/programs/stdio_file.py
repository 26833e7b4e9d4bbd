# stdout: file
import sys
for s in (sys.stdin, sys.stdout, sys.stderr):
    print(repr(s), s.line_buffering, s.write_through, s.isatty(), s.seekable(), s.buffer.raw)
print(sys.stdout.tell() > 0)
