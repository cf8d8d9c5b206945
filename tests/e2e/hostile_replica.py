"""The replica of the tests of hostile clients, run as `web: exec python3 server.py`.

GET /big        answers 1 GiB with a Content-Length     POST /sink   reads the head and then nothing, for ever
GET /chunks     answers 1 GiB in chunks                 GET /stream  sends one event, and no more
anything else answers `hello from <pid>`
"""

import asyncio
import os
import signal

GIB = 1 << 30
PIECE = b"x" * 65536
FOREVER = asyncio.Event()  # of the module: a task that only its own event knows is collected


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ")[1]
            if target == b"/sink":
                await FOREVER.wait()
            elif target == b"/stream":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n")
                await reader.read()
            elif target in (b"/big", b"/chunks"):
                await big(writer, target == b"/chunks")
            else:
                text = f"hello from {os.getpid()}\n".encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def big(writer, chunked):
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % GIB
    writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    for _ in range(GIB // len(PIECE)):
        writer.write(piece)
        await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")


async def main():
    server = await asyncio.start_server(serve, os.environ["HOST"], int(os.environ["PORT"]), backlog=1024)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()
    os._exit(0)


asyncio.run(main())
