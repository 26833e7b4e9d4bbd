# package: uvicorn
# load: uvicorn
# run: python -m uvicorn served:app --uds socket --log-level critical --no-access-log
# exit: -15
# Under `-m`, with a lifespan, ended by SIGTERM.
#==== served.py
import os
import signal
import socket
import threading
import time


async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            message = await receive()
            print(message['type'], flush=True)
            await send({'type': message['type'] + '.complete'})
            if message['type'] == 'lifespan.startup':
                threading.Thread(target=end).start()
            else:
                return
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'x'})


def end():
    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex('socket'):
            time.sleep(0.01)
        client.sendall(b'GET / HTTP/1.0\r\n\r\n')
        print(client.makefile().read().split('\n')[0], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
