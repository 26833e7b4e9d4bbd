import subprocess
p = subprocess.Popen(['true'])
print(p.wait(), p.poll())
try:
    import os
    os.wait()
except ChildProcessError as e:
    print(e)
