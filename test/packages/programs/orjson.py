# package: orjson
# load: orjson
import datetime
import uuid
import orjson

data = orjson.dumps({'b': [1, 2.5, None], 'a': datetime.datetime(2024, 1, 2, 3), 'u': uuid.UUID(int=5)}, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
print(data, orjson.loads(data)['b'])
try:
    orjson.loads('{')
except orjson.JSONDecodeError as error:
    print(error)
