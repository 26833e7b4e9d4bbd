import builtins
print(sorted(n for n in vars(builtins) if n not in ('_',)))
