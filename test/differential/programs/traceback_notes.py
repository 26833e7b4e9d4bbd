# exit: 1
# min: 3.11
e = ValueError('x')
e.add_note('a note')
raise e
