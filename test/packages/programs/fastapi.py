# package: fastapi
# load: fastapi uvicorn
# Served by uvicorn on loopback.
import json
import socket
import threading
import urllib.request
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Item(BaseModel):
    name: str
    price: float = 1


@app.post('/items/{number}')
async def make(number: int, item: Item):
    return {'number': number, 'doubled': item.price * 2, 'name': item.name}


@app.get('/slow')
def slow():
    return threading.current_thread() is not threading.main_thread()


listener = socket.create_server(('127.0.0.1', 0))
server = uvicorn.Server(uvicorn.Config(app, log_level='error'))


def ask():
    base = 'http://127.0.0.1:%d' % listener.getsockname()[1]
    for path, body in (('/items/3', b'{"name": "a", "price": "2.5"}'), ('/items/x', b'{}'), ('/slow', None), ('/openapi.json', None)):
        call = urllib.request.Request(base + path, body, {'Content-Type': 'application/json'})
        try:
            answer = json.load(urllib.request.urlopen(call))
            print(answer if path != '/openapi.json' else sorted(answer['paths']))
        except urllib.error.HTTPError as error:
            print(error.code, [e['msg'] for e in json.load(error)['detail']])
    server.should_exit = True


import urllib.error
threading.Thread(target=ask).start()
server.run([listener])
