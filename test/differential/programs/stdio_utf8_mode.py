# env: PYTHONUTF8=1
# env: LC_ALL=POSIX
import sys
print(sys.flags.utf8_mode, sys.stdout.encoding, sys.stdout.errors, sys.getfilesystemencoding())
print('ü')
