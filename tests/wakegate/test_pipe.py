"""The pipe over a real socketpair: framing, pings, bounds, the end."""

import asyncio
import json
import os
import socket
import subprocess
import sys

import pytest

from wakegate.pipe import ENVIRONMENT, LIMIT, Channel, Message, Pipe

CHILD = [
    "import asyncio",
    "from wakegate.pipe import Pipe",
    "async def main():",
    "    pipe, _ = await Pipe.from_env()",
    "    pipe.send({'ready': True})",
    "    await asyncio.sleep(60)",
    "asyncio.run(main())",
]


async def ends() -> tuple[Channel, list[Message], socket.socket]:
    ours, theirs = socket.socketpair()
    received: list[Message] = []
    return await Channel.open(ours, received.append, lambda: received.append({"end": True})), received, theirs


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_lines_are_put_together_from_pieces_and_split_from_one():
    channel, received, peer = await ends()
    peer.sendall(b'{"pong":1}\n{"sa')
    await until(lambda: len(received) == 1)
    peer.sendall(b'y":"x"}\n{"pong":2}\n')
    await until(lambda: len(received) == 3)
    assert received == [{"pong": 1}, {"say": "x"}, {"pong": 2}]
    peer.close()
    await until(lambda: received[-1] == {"end": True})
    channel.send({"ping": 1})  # after the end: nothing


async def test_a_peer_that_never_reads_is_given_up():
    channel, received, peer = await ends()
    for _ in range(40):
        channel.send({"gone": ["x" * 65536]})
    await until(lambda: received == [{"end": True}])
    peer.close()


async def test_an_endless_line_is_given_up():
    channel, received, peer = await ends()
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    with pytest.raises(OSError):
        await loop.sock_sendall(peer, b"x" * (4 * LIMIT))
    await until(lambda: received == [{"end": True}])
    peer.close()
    channel.close()


async def test_flushed_says_whether_the_peer_reads():
    channel, _, peer = await ends()
    channel.send({"ping": 1})
    assert channel.flushed
    channel.send({"gone": ["x" * 500_000]})
    assert not channel.flushed
    channel.close()
    peer.setblocking(False)
    peer.close()


async def test_a_child_answers_pings_and_keeps_early_messages(monkeypatch):
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(ENVIRONMENT, str(theirs.detach()))
    ours.sendall(b'{"start":{"number":1}}\n{"ping":7}\n{"adopt":[2]}\n')
    monkeypatch.setattr("wakegate.pipe.die_with_parent", lambda: None)
    pipe, start = await Pipe.from_env()
    assert start == {"number": 1}
    assert ENVIRONMENT not in os.environ
    ours.setblocking(False)
    assert json.loads(await asyncio.get_running_loop().sock_recv(ours, 100)) == {"pong": 7}
    received: list[Message] = []
    pipe.on_message = received.append
    assert received == [{"adopt": [2]}]
    pipe.close()
    ours.close()


def test_a_child_ends_with_its_supervisor_and_refuses_to_run_without_one():
    code = "\n".join(CHILD)
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, ENVIRONMENT: str(theirs.fileno())}, pass_fds=[theirs.fileno()]
    )
    theirs.close()
    ours.sendall(b'{"start":{}}\n')
    assert ours.recv(100) == b'{"ready":true}\n'
    ours.close()
    assert child.wait(10) == 1
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "started by `wakegate serve`" in alone.stderr
