import subprocess
print(subprocess.check_output('echo $0; read x; echo $x', shell=True, input=b'typed\n'))
