"""The replica of the end-to-end tests, run as `web: exec python3 server.py`: an HTTP/1.1 server that tells what it saw.

In the directory $OUT it appends to `starts` a line `<pid> <time>` when it starts, to `requests` a line
`<pid> <time> <method> <target>` for each request before it is answered, to `ready` when health first turns 200, and to
`stops` when SIGTERM comes. Times are seconds of CLOCK_MONOTONIC, so that clients on the machine can compare.

  GET /slow?s=0.5   answers after half a second          POST /echo   answers the length and SHA-256 of the body
  GET /events       answers one server-sent event
  anything else     answers `hello from <pid>`

$START_DELAY: seconds from listening to the first 200 (before it, 503). $START_GATE: no 200 before $OUT has a file `go`.
$EXIT_AFTER: requests until it exits by itself.
"""

import asyncio
import hashlib
import os
import signal
import sys
import time

OUT = os.environ.get("OUT")
began = time.monotonic()
ready_at = began + float(os.environ.get("START_DELAY", "0"))
GATE = os.environ.get("START_GATE")
told_ready = False


def note(name, *words):
    if OUT:
        descriptor = os.open(os.path.join(OUT, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(descriptor, (" ".join([str(os.getpid()), f"{time.monotonic():.6f}", *words]) + "\n").encode())
        os.close(descriptor)


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    body = b""
    if "content-length" in fields:
        body = await reader.readexactly(int(fields["content-length"]))
    elif fields.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return method, target, body


async def answer(method, target, body):
    global told_ready
    if time.monotonic() < ready_at or (not told_ready and GATE and not os.path.exists(os.path.join(OUT, "go"))):
        return 503, b"starting\n"
    if not told_ready:
        told_ready = True
        note("ready")
    if target.startswith("/slow?s="):
        await asyncio.sleep(float(target.partition("=")[2]))
    if target == "/events":
        return 200, b"data: hello\n\n"
    if target == "/echo":
        return 200, f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
    return 200, f"hello from {os.getpid()}\n".encode()


async def serve(reader, writer):
    try:
        while True:
            method, target, body = await read_request(reader)
            if target != "/":  # the probe's
                note("requests", method, target)
            status, text = await answer(method, target, body)
            kind = "text/event-stream" if target == "/events" else "text/plain"
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nContent-Type: {kind}\r\n\r\n"
            writer.write(head.encode() + text)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    stopped = asyncio.Event()

    def stop():
        note("stops")
        stopped.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    note("starts")
    server = await asyncio.start_server(serve, os.environ["HOST"], int(os.environ["PORT"]), backlog=1024)
    print("listening on", os.environ["PORT"], flush=True)
    await stopped.wait()
    server.close()
    sys.stdout.flush()
    os._exit(0)


asyncio.run(main())
