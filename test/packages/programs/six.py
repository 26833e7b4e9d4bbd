# package: six
# load: six six.moves.urllib.parse
import six
from six.moves import configparser, urllib

print(six.PY3, six.ensure_binary('é'), urllib.parse.quote('a b'), configparser.ConfigParser.__name__)


@six.add_metaclass(type)
class C(six.with_metaclass(type, object)):
    pass


print(C.__mro__, list(six.iteritems({'a': 1})))
