"""The replica of the tests of rollouts, run as `web: exec python3 server.py`: it answers its $VERSION and its pid.

  GET /slow?s=5   after five seconds          Upgrade: websocket   101, then it sends back what it gets

$MODE: `exit` ends it at once, `ill` fails its health check. $OUT/starts gets a line with its pid.
"""

import asyncio
import os
import signal
import sys

if os.environ.get("MODE") == "exit":
    sys.exit("I can't go on")


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            target = head.split(b" ", 2)[1]
            if b"\r\nupgrade: websocket\r\n" in head:
                await tunnel(reader, writer)
                return
            if target.startswith(b"/slow?s="):
                await asyncio.sleep(float(target.partition(b"=")[2]))
            status = 500 if os.environ.get("MODE") == "ill" and target == b"/" else 200
            text = f"{os.environ.get('VERSION')} {os.getpid()}\n".encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def tunnel(reader, writer):
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def main():
    with open(os.path.join(os.environ["OUT"], "starts"), "a") as starts:
        starts.write(f"{os.getpid()}\n")
    server = await asyncio.start_server(serve, os.environ["HOST"], int(os.environ["PORT"]), backlog=1024)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()
    os._exit(0)


asyncio.run(main())
