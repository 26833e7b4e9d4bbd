import multiprocessing as mp, sys
def f(): sys.exit(5)
if __name__ == '__main__':
    p = mp.get_context('fork').Process(target=f, name='leaver')
    p.start()
    p.join()
    print(p.exitcode, p.name, mp.current_process().name, mp.parent_process())
