"""The replica of the tests of tunnels, run as `web: exec python3 server.py`: after a 101 it sends back what it gets.

`/events` is a stream of server-sent events, of which one comes and then no more, until its reader leaves.

It appends a line to $OUT/tunnels when one begins (`open`) and when it ends (`end` or `reset`). Any other request gets
`hello from <pid>`.
"""

import asyncio
import os
import signal

OUT = os.environ["OUT"]


def note(word):
    descriptor = os.open(os.path.join(OUT, "tunnels"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, f"{word}\n".encode())
    os.close(descriptor)


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"\r\nupgrade: websocket\r\n" in head:
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
                await tunnel(reader, writer)
                return
            if head.startswith(b"get /events "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                await reader.read()
                return
            text = f"hello from {os.getpid()}\n".encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def tunnel(reader, writer):
    note("open")
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        note("reset")
    else:
        note("end")


async def main():
    server = await asyncio.start_server(serve, os.environ["HOST"], int(os.environ["PORT"]), backlog=1024)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()
    os._exit(0)


asyncio.run(main())
