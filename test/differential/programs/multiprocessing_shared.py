import multiprocessing as mp
from multiprocessing import shared_memory
def f(v, name):
    with v.get_lock():
        v.value += 1
    m = shared_memory.SharedMemory(name)
    m.buf[0] = 7
    m.close()
if __name__ == '__main__':
    v = mp.Value('i', 1)
    m = shared_memory.SharedMemory(create=True, size=10)
    ctx = mp.get_context('fork')
    p = ctx.Process(target=f, args=(v, m.name))
    p.start()
    p.join()
    print(v.value, m.buf[0])
    m.close()
    m.unlink()
