# run: python latin.py
#==== latin.py
# -*- coding: latin-1 -*-
print(ascii('ÿ'))
