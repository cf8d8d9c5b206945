"""The body of a request in HTTP/1, as content: its length is known, or it comes in chunks (RFC 9112 6)."""

from __future__ import annotations

from gateway.http1.chunked import Decoder


class Body:
    """`length`: bytes, negative = chunked."""

    __slots__ = ("_decoder", "_left", "done", "rest", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self._decoder = Decoder() if length < 0 else None
        self.done = False
        self.rest = b""  # once done: what came behind it
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """The content in `data`. Raises ChunkError."""
        decoder = self._decoder
        if decoder is not None:
            piece = decoder.feed(data)
            if decoder.done:
                self.done = True
                self.rest = decoder.rest
                self.trailers = decoder.trailers
            return piece
        if len(data) > self._left:
            self.rest = data[self._left :]
            data = data[: self._left]
        self._left -= len(data)
        self.done = self._left == 0
        return data
