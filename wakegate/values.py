"""The values that options take, read from text: addresses, sizes, ranges, names.

Pure; a ValueError says what was expected. Each reader takes the text of one value and returns it in its final form;
`str` of that form reads back to the same.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+=*\Z")
_PROFILE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(i?b)?\Z", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_GPUS = ("A100-40GB", "A100-80GB", "H100-80GB", "L4", "T4")
_SECRET_KEY_BYTES = 32
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address, `host:port` or `[v6]:port`. Port 0: any free one. `[::]` is dual-stack."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)

    @property
    def reachable(self) -> Address:
        """Where this machine connects to what is listened on here."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - told apart, not bound
        return Address(host, self.port)

    def overlaps(self, other: Address) -> bool:
        """Whether both can't be listened on at once."""
        if self.port != other.port or self.port == 0:
            return False
        hosts = {"127.0.0.1" if host == "localhost" else host for host in (self.host, other.host)}
        if len(hosts) == 1 or "::" in hosts:
            return True
        return "0.0.0.0" in hosts and not any(":" in host for host in hosts)  # noqa: S104


@dataclass(frozen=True, slots=True)
class Span:
    """A range of integers, both ends included: `61000-61999`."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def listener(text: str) -> Address:
    """`127.0.0.1:8080`, `localhost:8080`, `[::]:80`, `:80` (every address). Listeners have no other host names."""
    address = _address(text)
    if not address.host:
        return Address("::", address.port)
    if address.host != "localhost" and not _is_ip(address.host):
        raise ValueError(f"{address.host!r} is not an IP address: write it as in 127.0.0.1:8080 or [::]:80")
    return address


def public(text: str) -> Address:
    """What clients see: `80`, `:80`, `203.0.113.7:80` or `edge.example.com:80`; the port is what endpoints show."""
    return Address("", _port(text)) if text.isascii() and text.isdecimal() else _address(text)


def resolver(text: str) -> Address:
    """`ip`, `ip:port`, `[v6]:port`; port 53 if not given."""
    if _is_ip(text):
        return Address(text, 53)
    address = _address(text)
    if not _is_ip(address.host) or address.port == 0:
        raise ValueError("expected an IP address and port, as in 192.0.2.53:53")
    return address


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("expected host:port, as in 127.0.0.1:8080 or [::]:80")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ip(host) or ":" not in host:
            raise ValueError(f"{host!r} is not an IPv6 address")
        return Address(str(ipaddress.IPv6Address(host)), _port(port))
    if ":" in host:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:8080")
    return Address(host.lower(), _port(port))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port (0-65535)")
    return int(text)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def network(text: str) -> str:
    """A CIDR or an address, normalised: `10.0.0.0/8`, `192.0.2.1/32`."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{error} (expected a CIDR, as in 10.0.0.0/8)") from None


def hostname(text: str) -> str:
    """A DNS name in lower case, without the final dot."""
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.match(label) for label in name.split(".")) or _is_ip(name):
        raise ValueError(f"{text!r} is not a host name")
    return name


def size(text: str) -> int:
    """Bytes: `1048576`, `10m`, `10MiB` (1024 each)."""
    match = _SIZE.match(text.strip())
    if not match or int(match[1]) == 0:
        raise ValueError("expected a size in bytes, as in 1048576 or 10MiB")
    return int(match[1]) << _UNITS[match[2].lower()]


def log_size(text: str) -> int:
    """As `size`: a MiB at least, or a few long lines would be all of a log."""
    if (found := size(text)) < 1 << 20:
        raise ValueError("expected 1MiB or more")
    return found


def span(text: str) -> Span:
    """`61000-61999`."""
    first, dash, last = text.partition("-")
    if not dash or not first.isdecimal() or not last.isdecimal() or not 0 < int(first) <= int(last) < 1 << 31:
        raise ValueError("expected a range, as in 61000-61999")
    return Span(int(first), int(last))


def gpus(text: str) -> str:
    """`auto`, `none`, or what this node offers: `T4=2,L4=1`."""
    if text in ("auto", "none"):
        return text
    offered: dict[str, int] = {}
    for item in text.split(","):
        name, equals, count = (part.strip() for part in item.partition("="))
        if name not in _GPUS or not equals or not count.isdecimal() or int(count) == 0 or name in offered:
            raise ValueError(f"expected auto, none, or counts of {', '.join(_GPUS)}, as in T4=2,L4=1")
        offered[name] = int(count)
    return ",".join(f"{name}={count}" for name, count in offered.items())


def git_url(text: str) -> str:
    """A URL with one `{repo}`."""
    if text.count("{repo}") != 1 or "://" not in text:
        raise ValueError(
            "expected a URL with one {repo}, as in https://github.com/{repo}.git or file:///srv/git/{repo}"
        )
    return text


def exporter_url(text: str) -> str:
    """`http://127.0.0.1:9400/metrics` or https; without a path it is `/metrics`."""
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("http", "https") or any(c.isspace() for c in text):
        raise ValueError("expected a URL without credentials, as in http://127.0.0.1:9400/metrics")
    return text if parts.path.strip("/") else parts._replace(path="/metrics").geturl()


def store_url(text: str) -> str:
    """`redis://`, `rediss://` or `unix://`."""
    try:
        parts = urlsplit(text)
        usable = bool(parts.path.strip("/")) if parts.scheme == "unix" else bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("expected a URL, as in redis://host:6379/0, rediss://host:6379/0 or unix:///run/valkey.sock")
    return text


def secret_key(text: str) -> bytes | None:
    """WAKEGATE_SECRET_KEY: 32 bytes in base64; empty = there is none, the key file counts."""
    if not text:
        return None
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != _SECRET_KEY_BYTES:
        raise ValueError("must be 32 bytes in base64, as made by: openssl rand -base64 32")
    return key


def acme_directory(text: str) -> str:
    """`letsencrypt`, `letsencrypt-staging`, or the URL of a directory."""
    if text not in ("letsencrypt", "letsencrypt-staging") and not (text.startswith("https://") and text[8:]):
        raise ValueError("expected letsencrypt, letsencrypt-staging or an https:// URL")
    return text


def email(text: str) -> str:
    local, at, domain = text.rpartition("@")
    if not local or not at or any(c.isspace() for c in text):
        raise ValueError(f"{text!r} is not an e-mail address")
    hostname(domain)
    return text


def eab(text: str) -> str:
    """External account binding, `KID:KEY`; the key as the CA shows it, base64url."""
    kid, colon, key = text.partition(":")
    if not (kid and colon and _BASE64URL.match(key)):
        raise ValueError("expected KID:KEY, the key in base64url as the CA shows it")
    return text


def profile(text: str) -> str:
    """The name of a profile of the ACME server."""
    if not _PROFILE.match(text):
        raise ValueError("expected the name of a profile, such as shortlived")
    return text


def hsts(text: str) -> str:
    """`off`, `on`, or the max-age in seconds."""
    if text not in ("off", "on") and not (text.isascii() and text.isdecimal()):
        raise ValueError("expected off, on, or a max-age in seconds")
    return text


def readable_file(text: str) -> Path:
    path = absolute(text)
    if not path.is_file():
        raise ValueError(f"{text}: no such file")
    return path


def program(text: str) -> Path:
    """A file that can be run."""
    path = readable_file(text)
    if not os.access(path, os.X_OK):
        raise ValueError(f"{text}: is not executable: chmod +x it")
    return path


def access_log(text: str) -> str:
    """`-` (standard output), `off`, or a path (made absolute)."""
    return text if text in ("-", "off") else str(absolute(text))


def absolute(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("expected a path")
    return Path(text).expanduser().absolute()
