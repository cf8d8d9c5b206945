"""`wakegate doctor`: judgements as pure functions, and looks at real ports, files, engines, a DNS server and a CA."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from certs.acme.directory import Directory, Meta
from tests.dns_responder import Responder
from tests.pebble import Pebble
from wakegate.config import Config, load
from wakegate.datadir import DataDirectory
from wakegate.doctor import authority, engines, machine, names, ports
from wakegate.doctor.findings import Finding, State, healthy
from wakegate.doctor.run import look
from wakegate.values import Address

DIRECTORY = Directory("https://ca/nonce", "https://ca/account", "https://ca/order", None, None, Meta())


def config(place: Path, **options: str | list[str]) -> Config:
    given = {"data_dir": str(place), **options}
    return load({name: [value] if isinstance(value, str) else value for name, value in given.items()}, {}).config


def told(findings: object) -> list[tuple[State, str]]:
    return [(finding.state, finding.text) for finding in findings]  # type: ignore[attr-defined]


def test_a_finding_is_one_line_whatever_others_wrote_into_it() -> None:
    finding = Finding(State.FIX, "dns", "x\n\x1b[2J", "do this")
    assert finding.line() == "fix   dns       x\\n\\x1b[2J: do this"
    assert not healthy([finding])
    assert healthy([Finding(State.NOTE, "dns", "x", "y"), Finding(State.OK, "dns", "x")])


@pytest.mark.parametrize(
    ("found", "state", "text"),
    [
        ({"203.0.113.7"}, State.OK, "a.test leads here (203.0.113.7)"),
        ({"203.0.113.7", "2001:db8::1"}, State.NOTE, "a.test leads here and to 2001:db8::1"),
        ({"198.51.100.1"}, State.NOTE, "a.test leads to 198.51.100.1, which this machine does not have"),
        ("does not exist", State.FIX, "a.test does not exist"),
        ({"127.0.0.1"}, State.FIX, "a.test leads to 127.0.0.1, where every visitor finds his own machine"),
    ],
)
def test_where_a_name_leads(found: set[str] | str, state: State, text: str) -> None:
    assert told(names.judge("a.test", found, {"203.0.113.7"})) == [(state, text)]


def test_a_host_of_the_api_that_may_be_an_endpoint() -> None:
    assert [finding.state for finding in names.clash("api.apps.example.com", "apps.example.com")] == [State.NOTE]
    assert list(names.clash("api.example.com", "apps.example.com")) == list(names.clash(None, "apps.example.com")) == []


async def test_a_dns_server_that_is_not_there(tmp_path: Path) -> None:
    given = config(tmp_path, domain="apps.example.com", dns_server="127.0.0.1:9", http="127.0.0.1:0", https="off")
    (finding,) = [finding for finding in await look(given) if finding.subject == "dns"]
    assert finding.state is State.FIX
    assert "--dns-server 127.0.0.1:9" in str(finding.fix)


def test_the_addresses_of_this_machine_are_known() -> None:
    own = names.own_addresses()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no way out")
        assert sock.getsockname()[0] in own
    assert not {"127.0.0.1", "::1"} & own


@pytest.mark.parametrize(
    ("apart", "state"), [(0, State.OK), (-9, State.OK), (60, State.NOTE), (-60, State.NOTE), (3600, State.FIX)]
)
def test_a_clock_that_differs_from_the_ca_s(apart: float, state: State) -> None:
    now = 1_800_000_000.0
    (finding,) = authority.skew(email.utils.formatdate(now, usegmt=True), now + apart)
    assert finding.state is state
    assert list(authority.skew("nonsense", now)) == list(authority.skew(None, now)) == []


@pytest.mark.parametrize(("answer", "state"), [(0, State.OK), (5, State.NOTE), (-1, State.NOTE), (None, State.NOTE)])
def test_a_clock_that_nobody_keeps(answer: int | None, state: State) -> None:
    (finding,) = machine.clock(answer)
    assert finding.state is state


def test_a_ca_that_wants_an_account_it_knows(tmp_path: Path) -> None:
    bound = Directory(*("https://ca/",) * 3, None, None, Meta(external_account_required=True))
    (finding,) = authority.judge(config(tmp_path), "https://ca/dir", bound)
    assert (finding.state, finding.fix) == (State.FIX, "--acme-eab KID:KEY, which the CA gives you")
    assert healthy(
        authority.judge(config(tmp_path, acme_directory="letsencrypt", acme_eab="kid:a2V5"), "https://ca/dir", bound)
    )


def test_a_hook_that_can_t_be_run(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    given = config(tmp_path / "data", acme_directory="letsencrypt", acme_dns_hook=str(hook))
    assert told(authority.judge(given, "https://ca/dir", DIRECTORY))[-1][0] is State.OK
    hook.chmod(0o644)
    assert told(authority.judge(given, "https://ca/dir", DIRECTORY))[-1] == (State.FIX, f"{hook} can't be run")


def test_ports_that_a_ca_does_not_look_at(tmp_path: Path) -> None:
    acme = {"acme_directory": "letsencrypt"}
    assert list(ports.public(config(tmp_path))) == []
    assert [finding.state for finding in ports.public(config(tmp_path, **acme))] == [State.FIX]
    assert [finding.state for finding in ports.public(config(tmp_path, **acme, public_https="443"))] == [State.NOTE]
    assert list(ports.public(config(tmp_path, **acme, public_http="80"))) == []


def test_ports_that_are_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = config(tmp_path, http=f"127.0.0.1:{port}", https="127.0.0.1:0", api="127.0.0.1:0")
        first, *others = ports.free(given)
    assert (first.state, first.text) == (State.FIX, f"--http 127.0.0.1:{port} already in use")
    assert "ss -ltnp" in str(first.fix)
    assert [finding.state for finding in others] == [State.OK, State.OK]


def test_the_data_directory_and_who_runs_on_it(tmp_path: Path) -> None:
    place = tmp_path / "data"
    assert told(machine.data_directory(place))[0][0] is not State.FIX
    assert not machine.running(place)
    data = DataDirectory.open(place, shared_with_replicas=False)
    assert machine.running(place)
    os.close(data.descriptor)
    assert not machine.running(place)
    place.chmod(0o755)
    assert (State.FIX, f"{place} can be read by others") in told(machine.data_directory(place))
    (tmp_path / "file").write_text("")
    assert told(machine.data_directory(tmp_path / "file")) == [(State.FIX, f"{tmp_path / 'file'} is not a directory")]


async def test_an_engine_and_a_store_that_are_not_there(tmp_path: Path) -> None:
    socket_file = tmp_path / "engine.sock"
    given = config(tmp_path, driver="container", engine_socket=str(socket_file), redis="unix:///nowhere.sock")
    found = await engines.look(given)
    assert [(finding.state, finding.subject) for finding in found] == [(State.FIX, "engine"), (State.FIX, "store")]
    assert all(finding.fix for finding in found)


async def test_what_measures_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert await engines.gpus(config(tmp_path)) == []
    (nothing,) = await engines.gpus(config(tmp_path, gpus="T4=1"))
    assert nothing.line() == (
        "note  gpus      nothing measures how busy they are, so no service scales by it: NVML (nvidia-ml-py is not "
        "installed: pip install 'wakegate[gpu]'), or an exporter by --dcgm-url"
    )
    silent = f"http://127.0.0.1:{unused_tcp_port}/metrics"
    first, second = await engines.gpus(config(tmp_path, gpus="T4=1", dcgm_url=silent))
    assert (first.state, first.fix, second.state) == (State.FIX, "start it, or mend --dcgm-url", State.NOTE)
    server = await asyncio.start_server(_exporter, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
        assert told(await engines.gpus(config(tmp_path, gpus="T4=1", dcgm_url=url))) == [
            (State.OK, f"{url} measures GPUs 0, 1")
        ]


async def _exporter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 5\nDCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-x"} 7\n'
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    writer.close()
    await writer.wait_closed()


async def test_who_answers_at_a_port() -> None:
    def answer(head: bytes) -> Address:
        server = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with server, server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(head)

        threading.Thread(target=serve, daemon=True).start()
        return Address(*server.getsockname())

    ours = answer(b"HTTP/1.1 404 Not Found\r\nproxy-status: wakegate; error=destination_not_found\r\n\r\n")
    assert await ports.ask(ours, "x.invalid") is True
    assert await ports.ask(answer(b"HTTP/1.1 200 OK\r\n\r\n"), "x.invalid") is False
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await ports.ask(Address(*unused.getsockname()), "x.invalid") is None


async def test_everything_around_a_platform_on_the_internet(tmp_path: Path, pebble: Pebble) -> None:
    async with Responder() as dns:
        dns.put("*.apps.example.com", "A", "203.0.113.7")
        given = config(
            tmp_path,
            domain="apps.example.com",
            api_host="api.example.com",
            dns_server=f"127.0.0.1:{dns.address[1]}",
            acme_directory=pebble.directory,
            acme_ca_bundle=str(pebble.ca),
            public_http="80",
            **dict.fromkeys(("http", "https", "api"), "127.0.0.1:0"),
        )
        found = {finding.text: finding for finding in await look(given)}
    assert found["*.apps.example.com leads to 203.0.113.7, which this machine does not have"].state is State.NOTE
    assert found["api.example.com does not exist"].state is State.FIX
    assert found[f"{pebble.directory} answers"].state is State.OK
    assert found["agrees with the CA's"].state is State.OK


async def test_a_ca_that_is_not_there(tmp_path: Path) -> None:
    given = config(tmp_path, acme_directory="https://127.0.0.1:9/dir")
    (finding,) = await authority.look(given, "https://127.0.0.1:9/dir")
    assert finding.state is State.FIX
    assert "127.0.0.1:9" in finding.text


def test_the_command(tmp_path: Path) -> None:
    free = [f"--{name}=127.0.0.1:0" for name in ("http", "https", "api")]
    command = [sys.executable, "-m", "wakegate", "doctor", "--data-dir", str(tmp_path / "data"), *free]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WAKEGATE_")}
    fine = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, env=clean)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert {"state": "ok", "subject": "config", "text": "valid", "fix": None} in json.loads(fine.stdout)
    assert not (tmp_path / "data").exists()
    wrong = subprocess.run([*command, "--workers", "0"], capture_output=True, text=True, timeout=60, env=clean)
    assert wrong.returncode == 1
    assert wrong.stdout == "fix   config    --workers is wrong: expected a whole number from 1 to 1024\n"
