# package: setuptools
# load: setuptools setuptools.dist
import os
from setuptools import setup

setup(name='thing', version='1.2', py_modules=['thing'], entry_points={'console_scripts': ['thing = thing:main']},
      script_args=['-q', 'egg_info', 'build_py', 'bdist_wheel'])
print(sorted(os.listdir('dist')), sorted(os.listdir('build/lib')), open('thing.egg-info/entry_points.txt').read())
#==== thing.py
def main():
    pass
