"""What a child is told, and what it may know: a real process, a real pipe."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess

import pytest

from wakegate.children import Child, child_environment


async def test_what_is_said_before_the_pipe_is_open_comes_right_after_the_start():
    """Control was started and a worker died before the pipe was open: `gone` must not be lost."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
    child = Child(process, "control", 0.0, "abc")
    try:
        child.send({"gone": ["one"]})
        child.send({"gone": ["one", "two"]})
        child.drain(5.0, 0.0, keep_replicas=True)
        await child.connect(ours, {"gone": []}, lambda *_: None)
        child.send({"ping": 1})
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        async with asyncio.timeout(30):
            told = [json.loads(await reader.readline()) for _ in range(5)]
        writer.close()
    finally:
        child.kill()
        child.ended(os.waitpid(process.pid, 0)[1])
    assert told == [
        {"start": {"gone": []}},
        {"gone": ["one"]},
        {"gone": ["one", "two"]},
        {"drain": {"timeout": 5.0, "keep_replicas": True}},
        {"ping": 1},
    ]


def test_the_secret_key_is_for_control_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WAKEGATE_SECRET_KEY", "secret")
    monkeypatch.setenv("WAKEGATE_HTTP", "127.0.0.1:1")
    assert "WAKEGATE_SECRET_KEY" not in child_environment()
    assert child_environment()["WAKEGATE_HTTP"] == "127.0.0.1:1"
    assert child_environment(secret=True)["WAKEGATE_SECRET_KEY"] == "secret"
