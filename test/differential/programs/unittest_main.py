# exit: 1
import unittest, sys
class T(unittest.TestCase):
    def test_good(self): pass
    def test_bad(self): self.assertEqual(1, 2)
unittest.main(argv=['prog', '-q'], testRunner=lambda **k: unittest.TextTestRunner(stream=open('/dev/null', 'w')))
