# needs: numpy
import numpy as np
a = np.ones((300, 300))
print((a @ a).sum())
