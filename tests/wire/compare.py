"""The request corpora through nginx and HAProxy: where they differ from what the corpora expect of us, and how.

Not a test: it tells about expectations that nobody else shares. `python tests/wire/compare.py [nginx|haproxy] [part of
a name]`; both have to be on PATH. One line per case that differs: what we expect, and what was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import h11
from bystander import Bystander
from corpus import HOST, RequestCase, requests
from readers import by_h11

SILENCE = 0.15  # seconds without a byte: nothing more comes
_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2})[ \r]")
BEHIND = f"GET /behind HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()

NGINX = """daemon off; error_log /dev/null crit; pid {directory}/pid; worker_processes 1; events {{ }}
http {{ access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
 fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
 large_client_header_buffers 4 64k;
 upstream replica {{ server 127.0.0.1:{replica}; keepalive 8; }}
 server {{ listen 127.0.0.1:{port} default_server; return 404; }}
 server {{ listen 127.0.0.1:{port}; server_name {host}; proxy_request_buffering off; location / {{
  proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header Host $http_host; }} }} }}
"""
HAPROXY = """global
 tune.bufsize 131072
defaults
 mode http
 timeout connect 1s
 timeout client 2s
 timeout server 2s
frontend f
 bind 127.0.0.1:{port}
 http-request return status 404 unless {{ hdr(host) -i -m beg {host} }}
 default_backend b
backend b
 server s 127.0.0.1:{replica}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def ask(port: int, case: RequestCase) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        for piece in case.send[:-1]:
            writer.write(piece)
            await asyncio.sleep(0.02)
        writer.write(case.send[-1] + (b"" if case.behind == "waits" else BEHIND))
        while True:
            async with asyncio.timeout(SILENCE):
                more = await reader.read(65536)
            if not more:
                break
            data += more
    writer.close()
    return data


async def compare(which: str, only: str) -> None:
    replica = await Bystander().start()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wg-") as directory:
        file = Path(directory) / "config"
        config = NGINX if which == "nginx" else HAPROXY
        file.write_text(config.format(directory=directory, port=port, replica=replica.port, host=HOST))
        command = ["nginx", "-c", str(file), "-p", directory] if which == "nginx" else ["haproxy", "-f", str(file)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                await listening(port)
                for name in ("requests.toml", "smuggling.toml"):
                    await through(which, name, port, replica, only)
            finally:
                process.terminate()
    await replica.close()
    await asyncio.sleep(0.1)


async def listening(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ConnectionError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


async def through(which: str, name: str, port: int, replica: Bystander, only: str) -> None:
    alike = number = 0
    for case in requests(name):
        if only not in case.name:
            continue
        before = [len(data) for data in replica.recorded]
        answers = await ask(port, case)
        came = [data[before[at] if at < len(before) else 0 :] for at, data in enumerate(replica.recorded)]
        client = [int(status) for status in _STATUS.findall(answers)]
        seen = [line for data in came for line in read(data)]
        answered = case.behind == "answered"
        expected = [*case.client, *([200] if answered else [])]
        wanted = [request.split(b" HTTP/")[0].decode("latin-1") for request in case.origin]
        wanted += ["GET /behind"] if answered else []
        number += 1
        if client == expected and len(seen) == len(wanted):
            alike += 1
        else:
            print(f"{which} {case.name}: client {expected} {client}, replica {short(wanted)} {short(seen)}")
    print(f"{which} {name}: {alike} of {number} alike\n")


def read(data: bytes) -> list[str]:
    """What h11 makes of it: methods and targets."""
    try:
        return [f"{seen.method.decode()} {seen.target.decode()}" for seen in by_h11(data)]
    except h11.ProtocolError as error:
        return [f"({error})"]


def short(targets: list[str]) -> list[str]:
    return [target[:40] for target in targets]


if __name__ == "__main__":
    for proxy in ["nginx", "haproxy"] if len(sys.argv) < 2 else [sys.argv[1]]:
        asyncio.run(compare(proxy, sys.argv[2] if len(sys.argv) > 2 else ""))
