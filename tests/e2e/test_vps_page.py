"""docs/https.md, followed by a reader to the letter: from a fresh server to HTTPS, with a real CA in between.

The server and the internet are namespaces (vps.py). Blocks ```zone are given to the DNS, blocks ```sh are root's on the
server, ```sh elsewhere a visitor's; none is changed, but that the reader puts in the token that he was shown. Only the
installation sees the real network, where packages are; the repository's address stands for this checkout. `letsencrypt`
is pebble, by the environment; systemd is vps_systemctl.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.rdatatype
import dns.zone
import pytest
from vps import CA, DNS, PROGRAMS, Internet, Refused, Vps

from tests.conftest import missing
from tests.dns_responder import DnsProcess
from tests.pebble import Pebble
from tests.pebble import lacking as lacking_for_pebble

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "https.md"
CA_HOST = "ca.example.net"
CA_FILE = "/usr/local/share/ca.example.net.pem"  # for the connection to it
REPOSITORY = "https://git.example.net/wakegate.git"
PLACEHOLDER = "the token that was printed"

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Block:
    """`heading`: of the section that it is in. `line`: where it begins."""

    line: int
    heading: str
    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    heading, opened = "", None
    lines = page.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if opened is not None:
                yield Block(opened + 1, heading, lines[opened][3:].strip(), "".join(lines[opened + 1 : number]))
            opened = number if opened is None else None
        elif opened is None and line.startswith("#"):
            heading = line.strip("# \n")
    assert opened is None, "a block has no end"


class Reader:
    """Does what the page says. `said`: what the server's blocks answered, the newest last."""

    def __init__(self, internet: Internet, vps: Vps, names: DnsProcess, roots: Path) -> None:
        self._internet, self._vps, self._names, self._roots = internet, vps, names, roots
        self.said: list[str] = []

    def follow(self, block: Block) -> None:
        match block.language.split():
            case ["zone"]:
                self._publish(block.text)
            case ["sh"]:
                self._do(block)
            case ["sh", "elsewhere"]:
                self.visit(block.text)

    def visit(self, script: str) -> str:
        done = self._internet.run(script, {"CURL_CA_BUNDLE": str(self._roots)})
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        print(f"elsewhere:\n{done.stdout}")
        return done.stdout

    def key(self) -> str:
        return self._vps.path("/var/lib/wakegate/admin.key").read_text().strip()

    def _do(self, block: Block) -> None:
        online = block.heading.endswith("Install")
        done = self._vps.run(block.text, online=online)
        print(f"line {block.line}:\n{done.stdout}")  # shown if something fails
        self.said.append(done.stdout)
        assert done.returncode == 0, f"line {block.line} of {PAGE.name}:\n{done.stdout}\n{self._vps.log()}"
        if online:
            self._vps.trust(self._roots.read_text())

    def _publish(self, text: str) -> None:
        if PLACEHOLDER in text:
            text = text.replace(PLACEHOLDER, self._token())
        zone = dns.zone.from_text(text, origin=".", relativize=False, check_origin=False)
        for name, ttl, record in zone.iterate_rdatas():
            kind = dns.rdatatype.to_text(record.rdtype)
            value = b"".join(record.strings).decode() if kind == "TXT" else record.to_text()
            self._names.put(name.to_text(), kind, value, ttl=ttl)

    def _token(self) -> str:
        shown = re.search(r"^TXT +_wakegate\.\S+ +(\S{32})\b", self.said[-1], re.MULTILINE)
        assert shown is not None, self.said[-1]
        return shown[1]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """At the top of the page: an account at a CA, a domain without records, a server as it is delivered."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    if lacking := [*lacking_for_pebble(), *(program for program in PROGRAMS if shutil.which(program) is None)]:
        missing(", ".join(lacking))
    with contextlib.ExitStack() as stack:
        try:
            internet, vps = stack.enter_context(Internet()), stack.enter_context(Vps())
        except Refused as error:
            missing(str(error))
        internet.connect(vps)
        with internet.entered():
            names = stack.enter_context(DnsProcess(DNS, 53))
            names.put(CA_HOST, "A", CA)
            ca = stack.enter_context(
                contextlib.closing(Pebble(host=CA_HOST, dns=f"{DNS}:53", http_port=80, tls_port=443))
            )
            roots = tmp_path / "roots.pem"
            roots.write_text("".join(ca.roots()))
        deliver(vps, ca, snapshot(tmp_path / "wakegate"))
        yield Reader(internet, vps, names, roots)


def deliver(vps: Vps, ca: Pebble, repository: Path) -> None:
    """What the page takes for granted, and who stands in for Let's Encrypt and systemd."""
    redirected = {"WAKEGATE_ACME_DIRECTORY": ca.directory, "WAKEGATE_ACME_CA_BUNDLE": CA_FILE}
    vps.export(redirected)
    settings = "".join(f"Environment={name}={value}\n" for name, value in redirected.items())
    vps.write("/etc/systemd/system/wakegate.service.d/ca.conf", f"[Service]\n{settings}")
    vps.write(CA_FILE, ca.ca.read_text())
    vps.write("/usr/local/bin/systemctl", (Path(__file__).parent / "vps_systemctl.py").read_text(), 0o755)
    vps.write("/etc/gitconfig", f'[url "file:///mnt/wakegate"]\n\tinsteadOf = {REPOSITORY}\n')
    shutil.copytree(repository, vps.path("/mnt/wakegate"))


def snapshot(to: Path) -> Path:
    """A repository of this checkout as it is now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), files.split("\0")[:-1]):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)
    author = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "as it is"]):
        subprocess.run(["git", *command], cwd=to, check=True)
    return to


def test_the_page_ends_with_https_on_a_custom_domain_and_on_the_api_host(reader: Reader) -> None:
    for block in blocks(PAGE.read_text()):
        reader.follow(block)
    shown = "curl -s -o /dev/null -w '%{http_code} %{scheme} %{redirect_url}'"
    assert reader.visit(f"{shown} --ipv4 https://www.example.com/") == "200 HTTPS "
    assert reader.visit(f"{shown} --ipv6 https://www.example.com/") == "200 HTTPS "
    assert reader.visit(f"{shown} http://www.example.com/") == "308 HTTP https://www.example.com/"
    credentials = f"-H 'Authorization: API-Key {reader.key()}'"
    assert reader.visit(f"{shown} {credentials} https://api.example.com/acme/service/hello") == "200 HTTPS "
    assert reader.visit("curl -s https://example.com/ || echo $?") == "35\n", "what was removed has no certificate"


def test_every_block_of_the_page_is_followed() -> None:
    """What is not run is not claimed to be."""
    assert {block.language for block in blocks(PAGE.read_text())} == {"zone", "sh", "sh elsewhere"}
