"""The service of the wake report: health turns 200 after a random 0-10 s. It logs its own times to standard output.

`turned_ready`: it could answer 200 from then on; `probed`: it first did, just before the bytes left; `request`: one of
the held requests came in. Times are CLOCK_MONOTONIC in nanoseconds, so they compare with the client's here.
"""

import json
import os
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DELAY = random.uniform(0, float(os.environ.get("LONGEST", "10")))
STARTED = time.monotonic_ns()
READY = STARTED + int(DELAY * 1e9)
told = threading.Lock()


def say(event: str, at: int) -> None:
    print(json.dumps({"event": event, "at": at, "delay": DELAY}), flush=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one write: two would wait for the peer's delayed acknowledgement
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        now = time.monotonic_ns()
        ready = now >= READY
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.wfile.flush()
        if self.path != "/health":
            say("request", now)
        elif ready and told.acquire(blocking=False):
            say("turned_ready", max(READY, STARTED))
            say("probed", now)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """The standard library's own log line says nothing that this report needs."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
