# env: A=1
# env: GONE=1
import os, subprocess
os.environ['B'] = '2'
del os.environ['GONE']
os.putenv('C', '3')
print(sorted(subprocess.run(['env'], capture_output=True, text=True).stdout.split('\n')))
os.system('echo $A $B $C')
