import multiprocessing as mp
def f(x): return x * x
if __name__ == '__main__':
    with mp.get_context('forkserver').Pool(2) as pool:
        print(pool.map(f, range(5)))
