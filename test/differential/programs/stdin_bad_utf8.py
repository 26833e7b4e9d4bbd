# env: PYTHONIOENCODING=utf-8:strict
# stdin: \xff\n
# exit: 1
import sys
sys.stdin.readline()
