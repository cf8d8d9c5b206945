"""One probe against a raw server: exactly 200, and a sentence for everything else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from activator.prober import Finding, probe


@contextlib.asynccontextmanager
async def answering(*parts: bytes, close: bool = True) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that sends these parts one after another; gives its port and what it was asked."""
    asked: list[bytes] = []
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        with contextlib.suppress(OSError):
            for part in parts:
                writer.write(part)
                await writer.drain()
            if not close:
                await release.wait()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        release.set()
        server.close()
        await server.wait_closed()


async def found(*parts: bytes, path: str = "/healthz", close: bool = True, timeout: float = 5.0) -> str | None:
    async with answering(*parts, close=close) as (port, _):
        finding = await probe("127.0.0.1", port, path, timeout)
        assert finding.healthy is (finding.problem is None)
        if finding.problem is None:
            return None
        assert str(port) not in finding.problem  # anybody reads it
        assert finding.detail == f"port {port}"
        return finding.problem


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\n\r\n"],
        [b"HTTP/1.0 200\r\n"],
        [b"HTT", b"P/1.1 2", b"00 OK\r\nContent-Length: 3\r\n\r\nabc"],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"],
    ],
)
async def test_healthy(parts: list[bytes]) -> None:
    assert await found(*parts) is None


@pytest.mark.parametrize("status", ["500 Oh", "204 No Content", "301 Moved Permanently", "404 Not Found"])
async def test_only_200_will_do(status: str) -> None:
    problem = await found(f"HTTP/1.1 {status}\r\n\r\n".encode())
    assert problem == f"GET /healthz answered {status[:3]} instead of 200"


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n", b"HTTP/1.1 20\r\n", b"HTTP/1.1 abc\r\n"])
async def test_not_http(answer: bytes) -> None:
    assert await found(answer) == "GET /healthz answered something that is not HTTP"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_cut_off(answer: bytes) -> None:
    assert await found(answer) == "GET /healthz was cut off without an answer"


async def test_too_slow() -> None:
    problem = await found(b"HTTP/1.1 ", close=False, timeout=0.1)
    assert problem == "GET /healthz did not answer within 0.1 s"


async def test_nothing_listens() -> None:
    async with answering() as (port, _):
        pass
    assert await probe("127.0.0.1", port, "/") == Finding("nothing listened on its port", f"port {port}")


async def test_what_it_asks() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as (port, asked):
        await probe("127.0.0.1", port, "/über?a=1 b\r\nX: y")
    (request,) = asked
    line, *fields = request.decode().rstrip().split("\r\n")
    assert line == "GET /%C3%BCber?a=1%20b%0D%0AX:%20y HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in fields
    assert "Connection: close" in fields
