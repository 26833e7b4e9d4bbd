# stdin: first\nsecond\n
import subprocess, sys
subprocess.run(['cat'])
subprocess.run(['sh', '-c', 'echo out; echo err >&2'])
