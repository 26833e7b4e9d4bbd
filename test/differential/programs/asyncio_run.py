import asyncio
async def f(x):
    await asyncio.sleep(0.001)
    return x
async def main():
    print(await asyncio.gather(*(f(i) for i in range(3))))
asyncio.run(main())
