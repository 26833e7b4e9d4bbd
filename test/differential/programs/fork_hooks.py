import os
os.register_at_fork(before=lambda: print('before'), after_in_parent=lambda: print('parent'), after_in_child=lambda: print('child', flush=True))
if os.fork() == 0:
    os._exit(0)
os.wait()
