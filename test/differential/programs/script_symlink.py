# run: python -c SOURCE
import os, subprocess, sys
os.makedirs('real')
open('real/x.py', 'w').write('import sys; print(sys.path[0], sys.argv, __file__)')
os.symlink('real/x.py', 'link.py')
sys.stdout.flush()
print(subprocess.run([sys.executable, 'link.py'], capture_output=True, text=True).stdout)
