import subprocess, sys
r = subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv, sys.path[0]); sys.exit(4)', 'x'], capture_output=True, text=True)
print(r.returncode, r.stdout, r.stderr)
