"""The replica of the soak, run as `web: exec python3 server.py`: it answers as its path says, well or badly.

  /             200, for health             /hello        200, short
  /size?n=      n bytes of the pattern      /chunked?n=   the same in chunks, with a trailer
  /echo         length and SHA-256 of the request's body, when all of it has come
  /slow?ms=     200 after a while           /events?n=&ms=  n server-sent events, a pause before each
  /interim      103, then 200               /early        413 at once, without reading the body; closes
  /reset /close /malformed /badchunk /cut   what a broken replica does
Upgrade: websocket: 101, then everything comes back as it went.
"""

import asyncio
import hashlib
import os
import signal
import socket
import struct

PATTERN = bytes(range(256)) * 256
PIECE = 65536


async def read_body(reader, fields):
    digest, size = hashlib.sha256(), 0
    if fields.get("transfer-encoding") == "chunked":
        while length := int((await reader.readline()).split(b";")[0], 16):
            digest.update((await reader.readexactly(length + 2))[:-2])
            size += length
        while await reader.readline() != b"\r\n":
            pass
    else:
        left = int(fields.get("content-length", "0"))
        while left:
            piece = await reader.readexactly(min(left, PIECE))
            digest.update(piece)
            size += len(piece)
            left -= len(piece)
    return size, digest.hexdigest()


def pattern(size):
    while size > 0:
        yield PATTERN[: min(size, len(PATTERN))]
        size -= len(PATTERN)


async def send(writer, text, status="200 OK", more=""):
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n{more}\r\n".encode() + text)
    await writer.drain()


async def answer(path, query, reader, writer, body):
    """False: the connection is not to be used again."""
    size = int(query.get("n", "0"))
    if path == "/echo":
        await send(writer, f"{body[0]} {body[1]}".encode())
    elif path == "/size":
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for piece in pattern(size):
            writer.write(piece)
            await writer.drain()
    elif path == "/chunked":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Done\r\n\r\n")
        for piece in pattern(size):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\nX-Done: yes\r\n\r\n")
    elif path == "/events":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(size):
            await asyncio.sleep(int(query["ms"]) / 1000)
            event = b"id: %d\ndata: tick\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    elif path == "/interim":
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        await send(writer, b"hello")
    else:
        return await misbehave(path, query, writer)
    return True


async def misbehave(path, query, writer):
    if path == "/slow":
        await asyncio.sleep(int(query["ms"]) / 1000)
    elif path == "/reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False
    elif path == "/close":
        return False
    elif path == "/malformed":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")
        return False
    elif path == "/badchunk":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n")
        return False
    elif path == "/cut":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + PATTERN[:50000])
        await writer.drain()
        return False
    await send(writer, b"hello")
    return True


async def tunnel(reader, writer):
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    while data := await reader.read(PIECE):
        writer.write(data)
        await writer.drain()


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            _, target, _ = head[0].split(" ")
            path, _, rest = target.partition("?")
            query = dict(pair.split("=", 1) for pair in rest.split("&") if "=" in pair)
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            if fields.get("upgrade") == "websocket":
                await tunnel(reader, writer)
                return
            if path == "/early":
                await send(writer, b"no", "413 Content Too Large", "Connection: close\r\n")
                return
            if not await answer(path, query, reader, writer, await read_body(reader, fields)):
                return
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    await asyncio.start_server(serve, os.environ["HOST"], int(os.environ["PORT"]), backlog=1024)
    await asyncio.Event().wait()


asyncio.run(main())
