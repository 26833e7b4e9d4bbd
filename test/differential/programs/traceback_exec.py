# exit: 1
exec('def f():\n  1/0\nf()')
