import subprocess, os
print(subprocess.run(['sh', '-c', 'ulimit -n'], capture_output=True, preexec_fn=lambda: __import__('resource').setrlimit(7, (64, 64))).stdout)
