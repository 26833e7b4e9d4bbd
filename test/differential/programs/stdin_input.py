# stdin: name\nage
print([input('> '), input()])
try:
    input()
except EOFError as e:
    print(repr(e))
