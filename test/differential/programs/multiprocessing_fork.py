import multiprocessing as mp
def f(q, x): q.put(x * 2)
if __name__ == '__main__':
    ctx = mp.get_context('fork')
    q = ctx.Queue()
    p = ctx.Process(target=f, args=(q, 21))
    p.start()
    print(q.get(), p.join(), p.exitcode)
