# package: psutil
# load: psutil
import os
import subprocess
import psutil

me = psutil.Process()
child = subprocess.Popen(['sleep', '60'])
print(me.pid == os.getpid(), me.name(), me.cmdline()[1:], me.num_threads(), me.cwd() == os.getcwd(), me.status())
print([c.name() for c in me.children()], me.username(), me.nice(), [f.fd for f in me.open_files()], me.environ()['LANG'])
child.kill()
print(psutil.wait_procs([psutil.Process(child.pid)])[0][0].returncode, psutil.cpu_count(), psutil.virtual_memory().total)
