# needs: requests
import requests, http.server, threading
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers['User-Agent'].split('/')[0].encode())
    def log_message(self, *a): pass
s = http.server.HTTPServer(('127.0.0.1', 0), H)
threading.Thread(target=s.serve_forever, daemon=True).start()
print(requests.get('http://127.0.0.1:%d/' % s.server_port).text)
s.shutdown()

