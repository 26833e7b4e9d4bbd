# stdout: null
# exit: 3
import sys
assert sys.stdout.name == '<stdout>' and not sys.stdout.isatty(), sys.stdout
print('nobody reads this')
sys.exit(3)
