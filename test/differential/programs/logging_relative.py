import logging
r = logging.LogRecord('n', 20, 'p', 1, 'm', (), None)
print(0 <= r.relativeCreated < 5000, r.process == __import__('os').getpid())
