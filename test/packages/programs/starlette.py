# package: starlette
# load: starlette.applications starlette.routing starlette.responses starlette.requests
import asyncio
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def page(request):
    return JSONResponse({'path': request.path_params['name'], 'query': dict(request.query_params), 'body': (await request.body()).decode()})


app = Starlette(routes=[Route('/{name}', page, methods=['POST'])])


async def main():
    sent, body = [], [{'type': 'http.request', 'body': b'text'}]

    async def receive():
        return body.pop() if body else {'type': 'http.disconnect'}

    async def send(message):
        sent.append(message)
    for method in ('POST', 'GET'):
        await app({'type': 'http', 'method': method, 'path': '/x', 'query_string': b'a=1', 'headers': []}, receive, send)
    print([(m.get('status'), m.get('body')) for m in sent])


asyncio.run(main())
