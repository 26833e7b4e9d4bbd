# package: tqdm
# load: tqdm tqdm.auto tqdm.contrib.concurrent
import io
from tqdm import tqdm
from tqdm.contrib.concurrent import process_map


def double(n):
    return 2 * n


out = io.StringIO()
with tqdm(range(50), file=out, bar_format='{n_fmt}/{total_fmt}', mininterval=0) as bar:
    print(sum(bar), bar.n)
print(out.getvalue().split('\r')[-1].strip(), process_map(double, range(6), max_workers=2, chunksize=1, disable=True))
