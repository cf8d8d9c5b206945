"""A replica that numbers its lines: `<pid> <n>` on stdout, every few milliseconds, and the last number in $OUT/<pid>.
Every other line is written as `echo … > /dev/stdout` does it.

  GET /burst   writes 1,000 lines of 4 KiB at once, too

$FLOOD: bytes that it writes as fast as it can once it serves. If $OUT/broken exists it says so and exits with 3.
"""

import http.server
import os
import signal
import sys
import threading
import time

OUT = os.environ["OUT"]
lock = threading.Lock()
count = 0


def say(padding=""):
    """What is recorded as written was written whole: SIGTERM waits for the lock."""
    global count
    with lock:
        output = os.open("/dev/stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if count % 2 else os.dup(1)
        os.write(output, f"{os.getpid()} {count} {padding}\n".encode())
        os.close(output)
        count += 1
        with open(os.path.join(OUT, f"{os.getpid()}.new"), "w") as file:
            file.write(str(count))
        os.replace(file.name, os.path.join(OUT, str(os.getpid())))


def tick():
    while True:
        say()
        time.sleep(0.01)


def flood(size):
    chunk = (b"x" * 99 + b"\n") * 10_000
    for _ in range(size // len(chunk)):
        view = memoryview(chunk)
        while view:
            view = view[os.write(1, view) :]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/burst":
            for _ in range(1000):
                say("y" * 4096)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def stop(*_):
    threading.Thread(target=end).start()


def end():
    with lock:
        os._exit(0)


if os.path.exists(os.path.join(OUT, "broken")):
    print("no database", file=sys.stderr)
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
if "FLOOD" in os.environ:
    threading.Thread(target=flood, args=[int(os.environ["FLOOD"])], daemon=True).start()
else:
    threading.Thread(target=tick, daemon=True).start()
server.serve_forever()
