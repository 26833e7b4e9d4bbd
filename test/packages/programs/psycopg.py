# package: psycopg
# load: psycopg psycopg.sql psycopg.rows
# There is no server: what it makes of values and statements, and how it fails to connect.
import datetime
import psycopg
from psycopg import adapt, sql

print(psycopg.pq.__impl__, psycopg.pq.version() > 100000)
print(sql.SQL('select {} from {} where x = {}').format(sql.Identifier('a"b'), sql.Identifier('s', 't'), sql.Literal("it's")).as_string(None))
t = adapt.Transformer()
print([bytes(t.get_dumper(v, adapt.PyFormat.TEXT).dump(v)) for v in (1, 2.5, 'text', datetime.date(2024, 1, 2))])
try:
    psycopg.connect('host=127.0.0.1 port=1 connect_timeout=5')
except psycopg.OperationalError as error:
    print(type(error).__name__, 'refused' in str(error))
