# env: PYTHONPATH=/no/such:lib
import sys, friend
print([p for p in sys.path if 'lib' == p or '/no/' in p or p.endswith('/lib')], friend.x)
#==== lib/friend.py
x = 'by PYTHONPATH'
