"""The replica of the end-to-end tests, run as `web: exec python3 server.py`: an HTTP/1.1 server that tells what it saw.

In the directory $OUT it appends to `starts` a line `<pid> <time>` when it starts, to `requests` a line
`<pid> <time> <method> <target>` for each request before it is answered, to `ready` when health first turns 200, and to
`stops` when SIGTERM comes. Times are seconds of CLOCK_MONOTONIC, so that clients on the machine can compare.

  GET /slow?s=0.5   answers after half a second          POST /echo   answers the length and SHA-256 of the body
  GET /events       answers one server-sent event
  anything else     answers `hello from <pid>`

$START_DELAY: seconds from listening to the first 200 (before it, 503). $START_GATE: no 200 before $OUT has a file `go`.

Hundreds of it are started, so it imports little: a thread for each connection costs a fifth of asyncio's import.
"""

import os
import signal
import socket
import sys
import threading
import time

OUT = os.environ.get("OUT")
began = time.monotonic()
ready_at = began + float(os.environ.get("START_DELAY", "0"))
GATE = os.environ.get("START_GATE")
told_ready = False
telling = threading.Lock()


def note(name, *words):
    if OUT:
        descriptor = os.open(os.path.join(OUT, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(descriptor, (" ".join([str(os.getpid()), f"{time.monotonic():.6f}", *words]) + "\n").encode())
        os.close(descriptor)


def read_request(file):
    """Method, target and body; raises EOFError where the client has ended."""
    lines = []
    while (line := file.readline()) != b"\r\n":
        if not line.endswith(b"\n"):
            raise EOFError
        lines.append(line.decode("latin-1").strip())
    method, target, _ = lines[0].split(" ")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body = b""
    if "content-length" in fields:
        body = exactly(file, int(fields["content-length"]))
    elif fields.get("transfer-encoding") == "chunked":
        while size := int(file.readline().split(b";")[0] or b"0", 16):
            body += exactly(file, size + 2)[:-2]
        file.readline()
    return method, target, body


def exactly(file, size):
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def ready():
    global told_ready
    with telling:
        if told_ready:
            return True
        if time.monotonic() < ready_at or (GATE and not os.path.exists(os.path.join(OUT, "go"))):
            return False
        told_ready = True
        note("ready")
        return True


def answer(method, target, body):
    if not ready():
        return 503, b"starting\n"
    if target.startswith("/slow?s="):
        time.sleep(float(target.partition("=")[2]))
    if target == "/events":
        return 200, b"data: hello\n\n"
    if target == "/echo":
        import hashlib

        return 200, f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
    return 200, f"hello from {os.getpid()}\n".encode()


def serve(connection):
    with connection, connection.makefile("rb") as file:
        try:
            while True:
                method, target, body = read_request(file)
                if target != "/":  # the probe's
                    note("requests", method, target)
                status, text = answer(method, target, body)
                kind = "text/event-stream" if target == "/events" else "text/plain"
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nContent-Type: {kind}\r\n\r\n"
                connection.sendall(head.encode() + text)
        except (EOFError, ConnectionError):
            pass


def stop(*_):
    note("stops")
    sys.stdout.flush()
    os._exit(0)


def main():
    signal.signal(signal.SIGTERM, stop)
    note("starts")
    server = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=1024)
    print("listening on", os.environ["PORT"], flush=True)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=[connection], daemon=True).start()


main()
