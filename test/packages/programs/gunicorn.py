# package: gunicorn
# load: gunicorn.app.base gunicorn.workers.sync gunicorn.arbiter
# Two workers forked from the forked program.
import os
import signal
import threading
import urllib.request
from gunicorn.app.base import BaseApplication

master = os.getpid()


def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'%s worker %d' % (environ['PATH_INFO'].encode(), os.getpid() != master)]


class Application(BaseApplication):
    def load_config(self):
        for name, value in (('bind', '127.0.0.1:0'), ('workers', 2), ('loglevel', 'critical'), ('when_ready', ready)):
            self.cfg.set(name, value)

    def load(self):
        return app


def ready(arbiter):
    def ask():
        host, port = arbiter.LISTENERS[0].getsockname()
        print(urllib.request.urlopen('http://%s:%d/page' % (host, port)).read(), flush=True)
        os.kill(master, signal.SIGTERM)
    threading.Thread(target=ask).start()


Application().run()
