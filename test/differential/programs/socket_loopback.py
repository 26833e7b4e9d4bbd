import socket, threading
s = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=lambda: s.accept()[0].sendall(b'hi')).start()
print(socket.create_connection(s.getsockname()).recv(10))
s.close()
