"""A replica that records every byte, reads with h11, and answers each request with the same few bytes."""

from __future__ import annotations

import asyncio
import contextlib

import h11


class _Reading:
    """One connection: bytes in, answers out. Raises RemoteProtocolError where h11 stumbles."""

    def __init__(self) -> None:
        self._peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self._method = b""
        self.over = False  # this was the connection's last request

    def answers(self, data: bytes) -> bytes:
        peer = self._peer
        peer.receive_data(data)
        out = b""
        while True:
            event = peer.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return out
            if isinstance(event, h11.Request):
                self._method = event.method
                if peer.they_are_waiting_for_100_continue:
                    out += peer.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            elif isinstance(event, h11.EndOfMessage):
                peer.send(h11.Response(status_code=200, headers=[("Content-Length", "2")]))
                if self._method != b"HEAD":
                    peer.send(h11.Data(b"ok"))
                peer.send(h11.EndOfMessage())
                self.over = peer.our_state is not h11.DONE
                out += b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if self._method == b"HEAD" else b"ok")
                if self.over:
                    return out
                peer.start_next_cycle()


class Bystander:
    """`recorded`: what came, connection by connection. `stumbled`: what h11 could not read."""

    def __init__(self) -> None:
        self.recorded: list[bytes] = []
        self.stumbled: list[str] = []
        self.port = 0
        self.open = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> Bystander:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = len(self.recorded)
        self.recorded.append(b"")
        self._writers.append(writer)
        self.open += 1
        reading = _Reading()
        try:
            with contextlib.suppress(ConnectionError):
                while not reading.over and (data := await reader.read(65536)):
                    self.recorded[at] += data
                    writer.write(reading.answers(data))
                    await writer.drain()
        except h11.ProtocolError as error:
            self.stumbled.append(str(error))
        finally:
            self.open -= 1
            writer.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()
