# package: redis
# load: redis redis.asyncio
# A server of a few commands on loopback.
import asyncio
import socketserver
import threading
import redis
import redis.asyncio

store = {}


class Server(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2])
            if words[0] == b'SET':
                store[words[1]] = words[2]
                self.wfile.write(b'+OK\r\n')
            elif words[0] == b'GET':
                value = store.get(words[1])
                self.wfile.write(b'$-1\r\n' if value is None else b'$%d\r\n%s\r\n' % (len(value), value))
            elif words[0] == b'CLIENT':
                self.wfile.write(b'+OK\r\n')
            else:
                self.wfile.write(b'-ERR unknown command\r\n')


server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Server)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]
client = redis.Redis(port=port, protocol=2)
print(client.set('key', 'value'), client.get('key'), client.get('none'))
try:
    client.incr('key')
except redis.ResponseError as error:
    print(error)


async def main():
    async with redis.asyncio.Redis(port=port, protocol=2, decode_responses=True) as client:
        print(await asyncio.gather(*[client.set('k%d' % i, i) for i in range(4)]), await client.get('k3'))


asyncio.run(main())
