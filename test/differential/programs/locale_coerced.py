# env: LC_NUMERIC=C
import os, locale, sys
print(os.environ.get('LC_CTYPE'), os.getenv('LC_CTYPE'), sys.stdout.errors, locale.setlocale(locale.LC_CTYPE))
import subprocess
print(subprocess.run(['env'], capture_output=True, text=True).stdout.count('LC_CTYPE'))
