# package: flask
# load: flask flask.json
import threading
import urllib.request
from flask import Flask, jsonify, render_template_string, request
from werkzeug.serving import make_server

app = Flask(__name__)


@app.route('/sum', methods=['POST'])
def add():
    return jsonify(sum=sum(request.get_json()), agent=request.headers['X-Key'])


@app.route('/<name>')
def hello(name):
    return render_template_string('<p>{{ name }}</p>', name=name)


server = make_server('127.0.0.1', 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = 'http://127.0.0.1:%d' % server.server_port
import logging
logging.getLogger('werkzeug').setLevel(logging.ERROR)
call = urllib.request.Request(base + '/sum', b'[1, 2, 3]', {'Content-Type': 'application/json', 'X-Key': 'k'})
print(urllib.request.urlopen(call).read(), urllib.request.urlopen(base + '/%3Cb%3E').read())
print(app.test_client().get('/a/b').status)
