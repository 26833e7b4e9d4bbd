import sys, threading
print(sys.gettrace(), sys.getprofile())
seen = []
sys.setprofile(lambda frame, event, arg: seen.append((event, frame.f_code.co_name)))
def f(): pass
f()
sys.setprofile(None)
print(seen)
