"""The service of the report on slots: one thing at a time, for $WORK seconds.

For each request it appends to a file of its own in $OUT a line with two times, CLOCK_MONOTONIC in nanoseconds: when the
request came, and when its answer was about to leave.
"""

import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WORK = float(os.environ["WORK"])
SEEN = (Path(os.environ["OUT"]) / str(os.getpid())).open("a", buffering=1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one write
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        came = time.monotonic_ns()
        if self.path != "/health":
            time.sleep(WORK)
            SEEN.write(f"{came} {time.monotonic_ns()}\n")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """The standard library's own log line says nothing that this report needs."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
