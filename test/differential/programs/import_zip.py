import zipfile, sys
with zipfile.ZipFile('a.zip', 'w') as z:
    z.writestr('inzip.py', 'print(__file__, __loader__)')
sys.path.insert(0, 'a.zip')
import inzip
