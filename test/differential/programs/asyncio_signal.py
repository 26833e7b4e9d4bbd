import asyncio, os, signal
async def main():
    e = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, e.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await e.wait()
    print('stopped')
asyncio.run(main())
