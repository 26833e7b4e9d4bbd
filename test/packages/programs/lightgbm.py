# package: lightgbm
# load: lightgbm
import lightgbm
import numpy as np

x = np.random.default_rng(0).random((500, 5))
model = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, deterministic=True, force_row_wise=True).fit(x, x[:, 0] > 0.5)
print(model.predict(x[:10]), round(float(model.score(x, x[:, 0] > 0.5)), 6))
