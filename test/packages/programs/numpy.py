# package: numpy
# load: numpy
# A product of matrices in OpenBLAS, with as many threads as after a plain start; random numbers by a seed; FFT.
import os
import threadpoolctl
import numpy as np

g = np.random.default_rng(7)
a = g.random((400, 400))
b = a @ a.T
print(b.shape, round(float(b.trace()), 6), round(float(np.linalg.norm(b)), 4))
print('threads', len(os.listdir('/proc/self/task')))
print(sorted((l['prefix'], l['num_threads']) for l in threadpoolctl.threadpool_info()))
print(np.round(np.linalg.eigvalsh(b)[-3:], 4), np.round(np.abs(np.fft.fft(a[0])[:3]), 6))
print(np.random.RandomState(3).randint(0, 1000, 5), np.show_config.__name__)
