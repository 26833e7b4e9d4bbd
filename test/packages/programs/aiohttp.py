# package: aiohttp
# load: aiohttp aiohttp.web
import asyncio
import ssl
import aiohttp
from aiohttp import web
from loopback import serve_tls


async def page(request):
    return web.json_response({'sum': sum(await request.json()), 'name': request.match_info['name']})


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data.upper())
    return socket


async def main():
    app = web.Application()
    app.add_routes([web.post('/{name}', page), web.get('/ws', echo)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, '127.0.0.1', 0)
    await site.start()
    base = 'http://127.0.0.1:%d' % runner.addresses[0][1]
    port, certificate = serve_tls()
    async with aiohttp.ClientSession() as session:
        async with session.post(base + '/x', json=[1, 2, 3]) as answer:
            print(answer.status, await answer.json())
        async with session.ws_connect(base + '/ws') as socket:
            await socket.send_str('text')
            print((await socket.receive()).data)
        async with session.get('https://localhost:%d/' % port, ssl=ssl.create_default_context(cafile=certificate)) as answer:
            print(answer.status, await answer.text())
    await runner.cleanup()


asyncio.run(main())
