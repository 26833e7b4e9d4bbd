# package: matplotlib
# load: matplotlib.pyplot matplotlib.backends.backend_agg
# The cache of fonts is made by the first import; where that may not write, the Zygote keeps it in memory.
# env: MPLBACKEND=agg
import hashlib
import io
import matplotlib.pyplot as plt
import numpy as np

figure, axes = plt.subplots(1, 2, figsize=(4, 2), dpi=80)
axes[0].plot(np.linspace(0, 6, 50), np.sin(np.linspace(0, 6, 50)), label='sine')
axes[0].legend()
axes[1].hist(np.arange(100) ** 2 % 31, bins=7)
axes[1].set_title('a title')
picture = io.BytesIO()
figure.savefig(picture, format='png', metadata={'Software': None})
print(plt.get_backend(), len(picture.getvalue()), hashlib.sha256(picture.getvalue()).hexdigest())
