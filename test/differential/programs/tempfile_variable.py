# env: TMPDIR=.
import tempfile, os
print(tempfile.gettempdir() == os.getcwd())
