import __main__
x: int = 1
print(__main__.__annotations__)
