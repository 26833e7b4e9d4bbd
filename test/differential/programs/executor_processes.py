import concurrent.futures as f, multiprocessing as mp
def g(x): return x + 1
if __name__ == '__main__':
    with f.ProcessPoolExecutor(2, mp_context=mp.get_context('fork')) as e:
        print(list(e.map(g, range(5))))
