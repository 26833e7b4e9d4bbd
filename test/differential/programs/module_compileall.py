# run: python -m compileall -q .
import os
print(sorted(os.listdir('.')))
