# package: scikit-learn
# load: sklearn sklearn.linear_model sklearn.ensemble sklearn.cluster sklearn.datasets
# OpenMP (the histograms), OpenBLAS and joblib's processes.
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

x, y = make_classification(n_samples=600, n_features=12, random_state=0)
print('threads', _openmp_effective_n_threads())
print(LogisticRegression().fit(x, y).coef_.round(5))
print(HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(x, y).score(x, y))
print(np.sort(KMeans(3, n_init=2, random_state=0).fit(x).cluster_centers_[:, 0]).round(5))
print(RandomForestClassifier(10, random_state=0, n_jobs=2).fit(x, y).score(x, y))
print(cross_val_score(LogisticRegression(), x, y, cv=3, n_jobs=2).round(5))
