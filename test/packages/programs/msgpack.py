# package: msgpack
# load: msgpack
import datetime
import msgpack

data = msgpack.packb({'a': [1, -5, 2.5, b'x', None], 'b': 'é' * 40, 't': datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc)}, datetime=True)
print(data, msgpack.unpackb(data, timestamp=3), msgpack.Packer.__module__)
