# package: pandas
# load: pandas
import io
import pandas as pd

csv = 'town,day,rain\n' + ''.join('%s,2024-01-%02d,%d\n' % ('ABC'[i % 3], i % 28 + 1, i * 7 % 13) for i in range(300))
frame = pd.read_csv(io.StringIO(csv), parse_dates=['day'])
print(frame.dtypes)
print(frame.groupby('town').rain.agg(['sum', 'mean', 'std']).round(4))
print(frame.set_index('day').resample('W').rain.sum())
print(frame.merge(pd.DataFrame({'town': ['A', 'C'], 'height': [1.5, 2.5]}), how='left').height.describe())
big = pd.DataFrame({'x': range(200000), 'y': range(200000)})
print(int((big.x * 3 + big.y > 100).sum()), frame.sort_values(['rain', 'day']).head(3).to_json(date_format='iso'))
