# needs: sqlite3
import sqlite3
c = sqlite3.connect('x.db')
c.execute('create table t(a)')
c.execute('insert into t values (1)')
print(c.execute('select * from t').fetchall())
