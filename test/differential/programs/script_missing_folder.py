# run: python ./no/where.py a
# exit: 2
