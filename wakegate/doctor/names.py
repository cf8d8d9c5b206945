"""The platform's names: do they lead to this machine?"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from wakegate.doctor.findings import Finding, fix, note, ok

_LOCAL: Final = Path("/proc/net/fib_trie")
_LOCAL6: Final = Path("/proc/net/if_inet6")


def judge(name: str, found: Collection[str] | str, own: Collection[str]) -> Iterator[Finding]:
    """`found`: the addresses that DNS has for `name`, or why it has none. `own`: those of this machine."""
    if isinstance(found, str):
        yield fix("dns", f"{name} {found}", f"add an A record (and AAAA) for {name} at your DNS provider")
        return
    if loopback := sorted(address for address in found if ipaddress.ip_address(address).is_loopback):
        text = f"{name} leads to {', '.join(loopback)}, where every visitor finds his own machine"
        yield fix("dns", text, "point the record to this machine's public address")
        return
    here, elsewhere = sorted(set(found) & set(own)), sorted(set(found) - set(own))
    if not elsewhere:
        yield ok("dns", f"{name} leads here ({', '.join(here)})")
        return
    if here:
        cure = "right if these are other nodes; else remove the record: visitors and CAs try every address"
        yield note("dns", f"{name} leads here and to {', '.join(elsewhere)}", cure)
    else:
        cure = "right behind NAT or a balancer that forwards the ports here; else point the record to this machine"
        yield note("dns", f"{name} leads to {', '.join(elsewhere)}, which this machine does not have", cure)


def clash(api_host: str | None, domain: str) -> Iterator[Finding]:
    """A host of the API that may be the endpoint of a service, too: it takes its place."""
    if api_host is not None and api_host.endswith(f".{domain}"):
        yield note("names", f"--api-host {api_host} may be a service's endpoint", f"take a name outside {domain}")


def on_this_machine_only(domain: str) -> bool:
    """RFC 6761 6.3: such names lead to loopback wherever they are asked for, and are in no DNS."""
    return domain == "localhost" or domain.endswith(".localhost")


def own_addresses() -> set[str]:
    """Of all interfaces, loopback and link-local ones left out."""
    found = {*_ipv4(_LOCAL), *_ipv6(_LOCAL6)}
    return {a for a in found if not (ipaddress.ip_address(a).is_loopback or ipaddress.ip_address(a).is_link_local)}


def _ipv4(file: Path) -> Iterator[str]:
    """`/32 host LOCAL` below the address that it is of."""
    address = ""
    for line in _lines(file):
        words = line.split()
        if words[:1] == ["|--"]:
            address = words[1]
        elif words == ["/32", "host", "LOCAL"]:
            yield address


def _ipv6(file: Path) -> Iterator[str]:
    for line in _lines(file):
        yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0]))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("ascii").splitlines()
    except OSError:
        return []
