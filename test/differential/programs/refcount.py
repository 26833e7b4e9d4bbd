import sys
a = []
print(sys.getrefcount(a), sys.getrefcount(sys.modules['__main__']) < 10)
