import colorsys
print(colorsys.__file__, colorsys.mine)
#==== colorsys.py
mine = True
