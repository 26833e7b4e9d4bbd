# package: opencv-python-headless
# load: cv2
import hashlib
import cv2
import numpy as np

picture = (np.arange(480 * 640 * 3).reshape(480, 640, 3) % 251).astype(np.uint8)
small = cv2.GaussianBlur(cv2.resize(picture, (160, 120), interpolation=cv2.INTER_AREA), (5, 5), 1.2)
edges = cv2.Canny(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), 50, 100)
ok, png = cv2.imencode('.png', small)
print(cv2.getNumThreads(), small.shape, int(edges.sum()), hashlib.sha256(png).hexdigest(), cv2.imdecode(png, 1).sum() == small.sum())
print(len(cv2.findContours(edges, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]), cv2.dft(np.float32(picture[:, :, 0]))[0, 0])
