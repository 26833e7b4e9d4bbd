# package: polars
# load: polars
# unforkable: threads beside the main one .*polars-ooc
# It starts a thread of its own when it is imported.
import polars

print(polars.DataFrame({'k': [1, 2, 1], 'v': [1, 2, 3]}).group_by('k').sum().sort('k'))
