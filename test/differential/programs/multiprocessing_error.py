import multiprocessing as mp
def f(): raise ValueError('in the child')
if __name__ == '__main__':
    p = mp.get_context('fork').Process(target=f, name='failing')
    p.start()
    p.join()
    print(p.exitcode)
