import runpy
print(runpy.run_path('other.py', run_name='named')['x'])
#==== other.py
print(__name__, __file__)
x = 5
