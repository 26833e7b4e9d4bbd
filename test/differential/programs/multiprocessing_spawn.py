import multiprocessing as mp, sys, os
def f(q, x): q.put((x * 2, sys.argv, __name__, os.path.basename(__file__)))
if __name__ == '__main__':
    ctx = mp.get_context('spawn')
    q = ctx.Queue()
    p = ctx.Process(target=f, args=(q, 21))
    p.start()
    print(q.get(), p.join(), p.exitcode)
