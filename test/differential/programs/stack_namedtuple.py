import collections, enum, pickle
T = collections.namedtuple('T', 'a b')
print(T.__module__, T(1, 2), pickle.loads(pickle.dumps(T(1, 2))))
E = enum.Enum('E', 'A B')
print(E.__module__, pickle.loads(pickle.dumps(E.A)))
