"""A WebSocket echo server of the `websockets` library, as a process of its own: `python echo_server.py`.

First it prints its port, then one line of JSON for each connection that ended: {"path", "code", "reason", "messages"},
with the close code as it saw it (1006: there was no Close frame). A line that
it reads it prints too, and with its input it ends.

  /greet…   says `hello` at once                    /bye/CODE…   closes with this code and the reason `bye`
  /drop…    aborts the TCP connection on a message  /refuse…     answers the handshake with 403
  anything else echoes, text as text, binary as binary
"""

import asyncio
import contextlib
import http
import json
import sys
from collections.abc import Sequence

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

SUBPROTOCOLS = [Subprotocol("chat.v2"), Subprotocol("chat.v1")]


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    if request.path.startswith("/refuse"):
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not for you\n")
    return None


def choose(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((ours for ours in SUBPROTOCOLS if ours in offered), None)


async def talk(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request is not None else ""
    messages = 0
    with contextlib.suppress(ConnectionClosed):
        if path.startswith("/greet"):
            await connection.send("hello")
        if path.startswith("/bye/"):
            await connection.close(int(path.split("/")[2]), "bye")
        async for message in connection:
            messages += 1
            if path.startswith("/drop"):
                connection.transport.abort()
                break
            await connection.send(message)
    await connection.wait_closed()
    told = {"path": path, "code": connection.close_code, "reason": connection.close_reason, "messages": messages}
    print(json.dumps(told), flush=True)


def repeat() -> None:
    for line in sys.stdin:
        print(line, end="", flush=True)


async def main() -> None:
    async with serve(
        talk,
        "127.0.0.1",
        0,
        process_request=refuse,
        select_subprotocol=choose,
        subprotocols=SUBPROTOCOLS,
        max_size=None,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, repeat)


asyncio.run(main())
