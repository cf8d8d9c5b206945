"""A real ACME server of our own: Debian's `pebble`, and `pebble-challtestsrv` as the DNS that it asks.

`Pebble()` starts both on free loopback ports, with files of their own in a temporary directory; `close` ends them. The
fixture `pebble` (tests/conftest.py) is one for the session, `pebbles` makes ones with other settings:

    def test_x(pebble):                   # strict, refuses 15 % of the nonces, every name resolves to 127.0.0.1
        pebble.directory                  # https://localhost:…/dir; `pebble.ca` (a file) is what to trust for it
        pebble.http_port, pebble.tls_port # where it looks for HTTP-01 and TLS-ALPN-01
        pebble.roots()                    # PEM: what the certificates that it issues lead to
        pebble.set_txt("_acme-challenge.a.test", "value")

Names under a domain that `resolve` was not told of are 127.0.0.1; `dns="127.0.0.1:5353"` makes it ask another DNS.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from certs.authority import make_leaf, make_root
from state.ids import now_us

PROGRAMS = ("pebble", "pebble-challtestsrv")
_ATTEMPTS = 5  # a port that was free may be taken before it is used
_DEADLINE = 30.0  # seconds


def lacking() -> list[str]:
    """The programs that are missing on this machine."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def free_port() -> int:
    """One of loopback that neither TCP nor UDP uses now, and that the kernel gives to nobody who asks for any."""
    while True:
        address = ("127.0.0.1", random.randrange(10_000, 32_000))
        with contextlib.suppress(OSError), socket.create_server(address), socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.bind(address)
            return address[1]


class Minica:
    """Files for TLS of `localhost` and other names: `ca` to trust, `certificate` and `key` to serve."""

    def __init__(self, directory: Path, *others: str) -> None:
        root = make_root(now_us())
        leaf = make_leaf(root, list(dict.fromkeys(("localhost", *others))), now_us())
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        self.ca.write_text(root.certificate)
        self.certificate.write_text(leaf.certificate)
        self.key.write_text(leaf.key)

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Pebble:
    """`validity`: seconds that certificates last. `nonce_reject`, `reuse`: percent of good nonces that are refused, of
    valid authorizations that a new order gets. `alternates`: further roots, each with a chain. `external`: keys
    (base64url) of external accounts by their identifiers; if there are any, an account needs one. `blocked`: names that
    it refuses. `http_port`, `tls_port`: where it looks, if that is not to be a free port. `host`: what others than this
    machine call it; it then listens on all addresses.
    """

    def __init__(
        self,
        *,
        validity: int = 90 * 86_400,
        nonce_reject: int = 15,
        reuse: int = 0,
        alternates: int = 0,
        external: Mapping[str, str] | None = None,
        blocked: Sequence[str] = (),
        dns: str | None = None,
        http_port: int | None = None,
        tls_port: int | None = None,
        host: str = "localhost",
    ) -> None:
        self._config: dict[str, Any] = {
            "certificateValidityPeriod": validity,
            "externalAccountBindingRequired": bool(external),
            "externalAccountMACKeys": dict(external or {}),
            "domainBlocklist": list(blocked),
        }
        self._environment = {
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
            "PEBBLE_AUTHZREUSE": str(reuse),
            "PEBBLE_ALTERNATE_ROOTS": str(alternates),
        }
        self._chains = alternates + 1
        self._dns = dns
        self._host = host
        self.http_port = http_port or free_port()
        self.tls_port = tls_port or free_port()
        self.directory_path = Path(tempfile.mkdtemp(prefix="wg-acme-", dir="/tmp"))
        self.minica = Minica(self.directory_path, host)
        self.ca = self.minica.ca
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._end()
        shutil.rmtree(self.directory_path, ignore_errors=True)

    @property
    def directory(self) -> str:
        return f"{self.url}/dir"

    def log(self) -> str:
        return (self.directory_path / "pebble.log").read_text(errors="replace")

    def roots(self) -> list[str]:
        """PEM, that of the default chain first."""
        return [self._managed(f"roots/{which}").decode() for which in range(self._chains)]

    def status(self, serial: int) -> dict[str, Any]:
        """What became of a certificate: `Status`, `Reason` of its revocation."""
        return dict(json.loads(self._managed(f"cert-status-by-serial/{serial:x}")))

    def set_txt(self, name: str, value: str) -> None:
        self._tell("set-txt", host=f"{name}.", value=value)

    def clear_txt(self, name: str) -> None:
        self._tell("clear-txt", host=f"{name}.")

    def resolve(self, name: str, *addresses: str) -> None:
        """A records of it from now on."""
        self._tell("add-a", host=f"{name}.", addresses=list(addresses))

    def _start(self) -> None:
        for attempt in range(_ATTEMPTS):
            self._launch()
            if self._up():
                return
            self._end()
            assert attempt < _ATTEMPTS - 1, f"pebble did not come up:\n{self.log()}"

    def _launch(self) -> None:
        listen, manage, self._challtestsrv, dns = (free_port() for _ in range(4))
        self.url, self.dns = f"https://{self._host}:{listen}", self._dns or f"127.0.0.1:{dns}"
        self._local = f"https://localhost:{listen}/dir"
        self._management = f"https://localhost:{manage}"
        config = self.directory_path / "pebble.json"
        ours = {
            "listenAddress": f"{'127.0.0.1' if self._host == 'localhost' else ''}:{listen}",
            "managementListenAddress": f"127.0.0.1:{manage}",
            "certificate": str(self.minica.certificate),
            "privateKey": str(self.minica.key),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
        }
        config.write_text(json.dumps({"pebble": ours | self._config}))
        self._run("pebble", "-strict", "-config", str(config), "-dnsserver", self.dns)
        served = [option for port in ("http01", "https01", "tlsalpn01") for option in (f"-{port}", "")]
        addresses = ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
        self._run("pebble-challtestsrv", *served, *addresses, "-management", f"127.0.0.1:{self._challtestsrv}")

    def _run(self, program: str, *arguments: str) -> None:
        with (self.directory_path / f"{program}.log").open("wb") as log:
            environment = os.environ | self._environment
            process = subprocess.Popen(
                [program, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._processes.append(process)

    def _up(self) -> bool:
        deadline = time.monotonic() + _DEADLINE
        while time.monotonic() < deadline and all(process.poll() is None for process in self._processes):
            with contextlib.suppress(OSError):
                self._managed("roots/0")
                self._fetch(self._local)
                self._tell("clear-txt", host="started.test.")
                return True
            time.sleep(0.02)
        return False

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def _managed(self, path: str) -> bytes:
        return self._fetch(f"{self._management}/{path}")

    def _fetch(self, url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=10, context=self.minica.client()) as answer:
            return bytes(answer.read())

    def _tell(self, what: str, **values: Any) -> None:
        url = f"http://127.0.0.1:{self._challtestsrv}/{what}"
        urllib.request.urlopen(url, json.dumps(values).encode(), timeout=10).close()
