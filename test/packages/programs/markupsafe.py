# package: markupsafe
# load: markupsafe
from markupsafe import Markup, escape

print(escape('<a href="x">&\'</a>'), Markup('<em>%s</em>') % '<b>', Markup('&lt;b&gt;').unescape(), Markup.__module__)
