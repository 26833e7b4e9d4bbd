import pickle
class C:
    def __init__(self, x): self.x = x
def f(): return 3
c = pickle.loads(pickle.dumps(C(5)))
print(c.x, type(c) is C, pickle.loads(pickle.dumps(f)) is f, C.__module__, pickle.dumps(C(1)))
