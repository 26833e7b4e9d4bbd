# package: httpx
# load: httpx
import asyncio
import ssl
import httpx
from loopback import serve_tls

port, certificate = serve_tls()
context = ssl.create_default_context(cafile=certificate)
with httpx.Client(verify=context, timeout=20) as client:
    print(client.get('https://localhost:%d/a' % port, headers={'X-Key': 'k'}).text)


async def many():
    async with httpx.AsyncClient(verify=context, timeout=20) as client:
        answers = await asyncio.gather(*[client.get('https://localhost:%d/%d' % (port, n)) for n in range(5)])
        print([a.text for a in answers], answers[0].http_version)


asyncio.run(many())
