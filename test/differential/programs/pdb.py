# run: python -m pdb app.py
# stdin: next\np x\ncontinue\nquit\n
x = 1
print('debugged')
