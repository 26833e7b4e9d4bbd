import sys
class A:
    def __del__(self): print(sys is not None, name, __name__)
name = 'still'
a = A()
