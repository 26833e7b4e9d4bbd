# package: numexpr
# load: numexpr
import numexpr
import numpy as np

a = np.arange(500000.0)
print(numexpr.evaluate('sum(sin(a) * 2 + a)').round(4), numexpr.nthreads, numexpr.get_num_threads())
