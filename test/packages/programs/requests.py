# package: requests
# load: requests
# An HTTPS server on loopback, its certificate checked.
import requests
from loopback import serve_tls

port, certificate = serve_tls()
with requests.Session() as session:
    answer = session.get('https://localhost:%d/path?a=b' % port, verify=certificate, headers={'X-Key': 'value'}, timeout=20)
    print(answer.status_code, answer.text, answer.headers['Content-Type'], answer.encoding)
    print(session.get('https://127.0.0.1:%d/' % port, verify=certificate, timeout=20).text)
    try:
        session.get('https://localhost:%d/' % port, timeout=20)
    except requests.exceptions.SSLError as error:
        print('refused', 'CERTIFICATE_VERIFY_FAILED' in str(error))
