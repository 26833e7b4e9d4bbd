# package: scipy
# load: scipy.linalg scipy.optimize scipy.stats scipy.sparse.linalg
import threadpoolctl
import numpy as np
import scipy.linalg, scipy.optimize, scipy.sparse, scipy.sparse.linalg, scipy.stats

a = np.random.default_rng(1).random((300, 300)) + 300 * np.eye(300)
lu, pivots = scipy.linalg.lu_factor(a)
print(np.round(scipy.linalg.lu_solve((lu, pivots), np.ones(300))[:4], 8))
print(sorted((l['prefix'], l['num_threads']) for l in threadpoolctl.threadpool_info()))
print(scipy.optimize.minimize(scipy.optimize.rosen, [1.3, 0.7, 0.8], method='BFGS').x.round(4))
print(scipy.stats.ttest_ind([1, 2, 3, 4], [2, 3, 4, 7]))
grid = scipy.sparse.diags([-1, 4, -1], [-1, 0, 1], shape=(1000, 1000), format='csc')
print(scipy.sparse.linalg.spsolve(grid, np.ones(1000))[:3].round(8))
