from wsgiref.util import setup_testing_defaults
from wsgiref.handlers import SimpleHandler
import io, sys
env = {}
setup_testing_defaults(env)
def app(environ, start):
    start('200 OK', [('X', 'y')])
    return [environ['PATH_INFO'].encode()]
out = io.BytesIO()
SimpleHandler(io.BytesIO(), out, sys.stderr, env).run(app)
print(out.getvalue().split(b'\r\n')[-1])
