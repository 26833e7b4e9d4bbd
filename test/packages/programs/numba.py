# package: numba
# load: numba
# Compiled code, run by threads.
import numba
import numpy as np


@numba.njit(parallel=True)
def norm(a):
    total = 0.0
    for i in numba.prange(a.shape[0]):
        total += a[i] * a[i]
    return total


print(norm(np.arange(100000.0)), numba.get_num_threads())
