import sys
for s in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):
    print(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.buffer.name, s.buffer.raw.name, s.buffer.mode,
          s.buffer.raw.mode, s.fileno(), s.isatty(), s.seekable(), s.readable(), s.writable(), s.buffer.raw.closefd, repr(s))
print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)
