# package: urllib3
# load: urllib3
import urllib3
from loopback import serve_tls

port, certificate = serve_tls()
with urllib3.PoolManager(ca_certs=certificate, retries=False) as pool:
    for path in ('/one', '/two?x=%20'):
        answer = pool.request('GET', 'https://localhost:%d%s' % (port, path), headers={'X-Key': 'k'}, timeout=20)
        print(answer.status, answer.data, answer.headers['content-type'])
