# env: A=1
# env: EMPTY=
# env: WITH=a=b=c
# env: ÜMLAUT=ä
import os, posix
print({k: v for k, v in os.environ.items() if k not in ('HOME', 'PATH')})
print(list(posix.environ)[:5], os.environb[b'A'], os.getenv('EMPTY'))
print(list(os.environ))
