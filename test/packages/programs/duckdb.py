# package: duckdb
# load: duckdb
import duckdb

print(duckdb.sql('select count(*), sum(i), list(distinct i % 3 order by i % 3) from range(200000) t(i)').fetchall())
connection = duckdb.connect('file.db')
connection.execute('create table t as select i, i * 2 as j from range(1000) x(i)')
print(connection.execute("select current_setting('threads'), avg(j) from t where i > 500").fetchall())
