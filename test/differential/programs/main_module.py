import sys
m = sys.modules['__main__']
print(m.__dict__ is globals(), m.__file__, m.__spec__, m.__package__, m.__doc__, m.__name__, type(m.__loader__), m.__loader__.name,
      m.__loader__.path)
print(sorted(k for k in m.__dict__ if k.startswith('__')), m.__builtins__.__name__, repr(m))
print(list(m.__dict__))
