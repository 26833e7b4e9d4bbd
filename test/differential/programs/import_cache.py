# bare: yes
import sys
print(sorted((k, v if v is None else type(v).__name__) for k, v in sys.path_importer_cache.items()))
