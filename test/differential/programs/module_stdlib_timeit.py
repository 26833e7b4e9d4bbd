# run: python -m timeit -h
