import decimal, contextvars
print(decimal.getcontext(), len(contextvars.copy_context()))
