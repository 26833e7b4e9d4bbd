# run: python -c SOURCE
import py_compile, subprocess, sys
open('p.py', 'w').write('import sys; print(__file__, sys.argv)')
py_compile.compile('p.py', 'p.pyc')
print(subprocess.run([sys.executable, 'p.pyc', '1'], capture_output=True, text=True).stdout)
