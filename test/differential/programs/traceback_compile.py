# exit: 1
exec(compile('1/0', 'made.py', 'exec'))
