"""What a shell offers while somebody types. Whatever goes wrong, and whatever takes long, it offers less."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import click
from click.shell_completion import CompletionItem

from wakegate.client import Client, ClientError, Failed, Own, find

_SHOWN: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")  # what a shell may be given
_DOMAIN: Final = re.compile(r"[a-z0-9.-]{1,253}")
_TIMEOUT: Final = 1.0  # seconds; a shell that waits for the API is worse than one that doesn't know a name
_PAGE: Final = 100  # services, the most that the API gives at once
_PAGES: Final = 10


def choices(*values: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What the shell offers for an option whose values the API judges."""
    return lambda _, __, begun: [value for value in values if value.startswith(begun)]


def namespaces(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    return items(begun, _soon(lambda client: list(Own.of(client).inhabited)))


def services(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    owner, slash, start = begun.rpartition("/")
    chosen = owner if slash else context.params.get("namespace")
    found = _soon(lambda client: list(_names(client, chosen or Own.of(client).namespace)))
    return items(start, found, prefix=owner + slash)


def domains(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Those of the service that was named before."""
    owner, slash, name = str(context.params.get("name") or "").rpartition("/")
    chosen = owner if slash else context.params.get("namespace")
    found = _soon(lambda client: _domains(client, chosen or Own.of(client).namespace, name))
    return items(begun, found, shown=_DOMAIN)


def _soon(ask: Callable[[Client], list[str]]) -> list[str]:
    """What the API answers if it answers soon, else nothing: whoever types is not to be kept waiting nor told."""
    found: list[str] = []

    def work() -> None:
        with contextlib.suppress(ClientError, Failed, LookupError, TypeError):
            found.extend(ask(find(timeout=_TIMEOUT)))

    thread = threading.Thread(target=work, name="completion", daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return list(found)


def _names(client: Client, namespace: str) -> Iterator[str]:
    for page in range(1, _PAGES + 1):
        body = client.call("GET", namespace, "services", query={"page": page, "limit": _PAGE}).body
        yield from (service["name"] for service in body["items"])
        if page * _PAGE >= body["total"]:
            return


def _domains(client: Client, namespace: str, name: str) -> list[str]:
    listed = client.call("GET", namespace, "service", name, "domains").body["items"]
    return [domain["name"] for domain in listed]


def items(begun: str, values: Sequence[str], prefix: str = "", shown: re.Pattern[str] = _SHOWN) -> list[CompletionItem]:
    found = sorted(value for value in values if value.startswith(begun) and shown.fullmatch(value))
    return [CompletionItem(prefix + value) for value in found]
