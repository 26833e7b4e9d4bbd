# run: python -m pkg.app
#==== pkg/__init__.py
#==== pkg/app.py
import multiprocessing as mp, sys
def f(q): q.put((__name__, __package__, mp.process.current_process().name))
if __name__ == '__main__':
    ctx = mp.get_context('spawn')
    q = ctx.Queue()
    p = ctx.Process(target=f, args=(q,))
    p.start()
    print(q.get(), p.join(), p.exitcode)
