"""A small web service, to deploy with Wakegate: says hello, and how long it took to start.

START_DELAY (seconds, default 0) makes its start as slow as a real program's.
"""

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

began = time.monotonic()
time.sleep(float(os.environ.get("START_DELAY", "0")))
started = time.monotonic()


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; the second must not wait for an acknowledgement

    def do_GET(self):
        awake = time.monotonic() - started
        body = f"Hello from process {os.getpid()}, awake for {awake:.1f} s\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        """Nothing: the gateway keeps the access log."""

    do_HEAD = do_GET  # noqa: N815 - the name that http.server wants


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 makes a burst of new connections wait a second


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = Server((os.environ.get("HOST", "0.0.0.0"), int(os.environ["PORT"])), Hello)
print(f"listening on port {os.environ['PORT']}, {started - began:.1f} s after the start", flush=True)
server.serve_forever()
