# run: python -m space.tool
#==== space/tool.py
import sys, space
print(__package__, list(space.__path__)[0].rsplit('/', 1)[1], space.__spec__.loader is None or type(space.__spec__.loader).__name__)
