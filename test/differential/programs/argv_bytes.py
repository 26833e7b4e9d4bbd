# run: python other.py Ã¼ ÿ
#==== other.py
import sys
print([a.encode('utf-8', 'surrogateescape') for a in sys.argv])
