import subprocess
try:
    subprocess.run(['sleep', '10'], timeout=0.05)
except subprocess.TimeoutExpired as e:
    print(type(e), e.cmd)
