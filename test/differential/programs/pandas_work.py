# needs: pandas
import pandas as pd
d = pd.DataFrame({'k': ['a', 'b', 'a'], 'v': [1, 2, 3]})
print(d.groupby('k').v.sum(), d.to_csv())
