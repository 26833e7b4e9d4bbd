# exit: 1
class E(Exception): pass
raise E('mine')
