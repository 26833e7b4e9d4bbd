# exit: 1
class E(Exception):
    def __str__(self):
        raise TypeError
raise E
