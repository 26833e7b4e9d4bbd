# package: werkzeug
# load: werkzeug werkzeug.wrappers werkzeug.routing werkzeug.security werkzeug.test
from werkzeug.routing import Map, Rule
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

routes = Map([Rule('/item/<int:n>', endpoint='item')])


@Request.application
def app(request):
    endpoint, values = routes.bind_to_environ(request.environ).match()
    return Response('%s %r %s' % (endpoint, values, request.args.getlist('q')))


print(Client(app).get('/item/7?q=1&q=2').text)
secret = generate_password_hash('word', 'pbkdf2:sha256:1000')
print(check_password_hash(secret, 'word'), check_password_hash(secret, 'other'))
