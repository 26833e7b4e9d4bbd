import friend
#==== friend.py
import __main__
print(__main__.__file__, hasattr(__main__, 'friend'), __main__.__name__)
