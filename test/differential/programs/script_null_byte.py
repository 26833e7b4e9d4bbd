# run: python -c SOURCE
import subprocess, sys
open('n.py', 'wb').write(b'print(1)\0\n')
r = subprocess.run([sys.executable, 'n.py'], capture_output=True, text=True)
print(r.returncode, r.stderr)
