# run: python -c SOURCE
import zipapp, os, subprocess, sys
os.mkdir('d')
open('d/__main__.py', 'w').write('import sys; print(sys.argv, sys.path[0], __file__, __package__, __spec__.name)')
zipapp.create_archive('d', 'a.pyz')
print(subprocess.run([sys.executable, 'a.pyz', 'x'], capture_output=True, text=True))
