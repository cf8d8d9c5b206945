"""The service of the report of held requests: it is healthy once $GATE exists, and notes what came in which order.

Each replica appends a line `<monotonic ns> <target>` to a file of its own in $OUT for each request but the probe's.
"""

import asyncio
import os
import time

ANSWER = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok"
HEALTH = b"/health"


class Replica(asyncio.Protocol):
    def __init__(self, seen: int) -> None:
        self._seen = seen
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._buffer = (self._buffer + data).split(b"\r\n\r\n")
        for head in heads:
            target = head.split(b" ", 2)[1]
            if target == HEALTH:
                self._transport.write(ANSWER % (200 if os.path.exists(os.environ["GATE"]) else 503))
            else:
                os.write(self._seen, b"%d %s\n" % (time.monotonic_ns(), target))
                self._transport.write(ANSWER % 200)


async def main() -> None:
    seen = os.open(f"{os.environ['OUT']}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Replica(seen), "127.0.0.1", int(os.environ["PORT"]), backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
