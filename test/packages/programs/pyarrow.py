# package: pyarrow
# load: pyarrow pyarrow.parquet pyarrow.compute pyarrow.csv pyarrow.dataset
# Its pools of threads and its allocators.
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq

table = pa.table({'k': [i % 5 for i in range(100000)], 'v': [float(i) for i in range(100000)]})
print(pa.cpu_count(), pa.io_thread_count(), sorted(pa.supported_memory_backends()))
print(table.group_by('k').aggregate([('v', 'sum'), ('v', 'count')]).sort_by('k').to_pydict())
pq.write_table(table, 'table.parquet', compression='zstd')
print(pq.read_table('table.parquet', filters=[('k', '=', 2)]).num_rows, pc.mean(table['v']))
print(pyarrow.dataset.dataset('table.parquet').scanner(filter=pc.field('v') < 10).to_table().to_pydict()['v'])
print(pyarrow.csv.read_csv(pa.BufferReader(b'a,b\n1,x\n2,y\n' * 1)).schema)
pool = pa.jemalloc_memory_pool()
print(pa.array(range(1000000), memory_pool=pool).nbytes, pool.bytes_allocated() == 0, pool.backend_name)
