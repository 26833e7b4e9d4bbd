print([n for n in globals()], [n for n in dir()])
