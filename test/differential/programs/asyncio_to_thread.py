import asyncio, threading
async def main():
    print(await asyncio.get_running_loop().run_in_executor(None, lambda: threading.current_thread() is threading.main_thread()))
asyncio.run(main())
