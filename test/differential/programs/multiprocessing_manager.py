import multiprocessing as mp
def f(d): d['x'] = 1
if __name__ == '__main__':
    with mp.get_context('fork').Manager() as manager:
        d = manager.dict()
        p = mp.get_context('fork').Process(target=f, args=(d,))
        p.start()
        p.join()
        print(dict(d))
