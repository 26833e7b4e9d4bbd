# run: python -m unittest -q test_it
#==== test_it.py
import unittest
class T(unittest.TestCase):
    def test(self):
        with self.assertRaises(ZeroDivisionError):
            1 / 0
