# env: HOME=/somewhere
import os, pathlib
print(os.path.expanduser('~/x'), pathlib.Path.home())
