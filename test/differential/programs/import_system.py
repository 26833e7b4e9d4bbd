import sys, importlib, importlib.util
print([type(f).__name__ if not isinstance(f, type) else f.__name__ for f in sys.meta_path])
print([h if isinstance(h, type) else h.__name__ for h in sys.path_hooks])
print(importlib.util.find_spec('friend').origin, importlib.util.find_spec('no_friend'))
import friend
friend = importlib.reload(friend)
#==== friend.py
print('loaded')
