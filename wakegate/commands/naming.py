"""Which service, and whose: what nearly every command takes, and what the shell completes."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from wakegate.client import Answer, Client, ClientError, Failed, Own, find
from wakegate.commands.output import calls_the_api

_WRITES: Final = ("auth", "v1", "seed")
_SHOWN: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")  # names that a shell may be given
_COMPLETION_TIMEOUT: Final = 1.0  # seconds; a shell that waits for the API is worse than one that doesn't know a name
_PAGE: Final = 100  # services, the most that the API gives at once
_PAGES: Final = 10  # that completion reads

_DEFAULT: Final = "Default: WAKEGATE_NAMESPACE, or that of your key"


@dataclass(frozen=True, slots=True)
class Target:
    """One service of the API."""

    client: Client
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def path(self, *more: str) -> tuple[str, ...]:
        """Where it is read."""
        return (self.namespace, "service", self.name, *more)

    def read(self, *more: str, patience: float = 0.0, query: Mapping[str, Any] | None = None) -> Answer:
        """Raises ClientError, Failed."""
        return self.client.call("GET", *self.path(*more), query=query, patience=patience)

    def write(self, method: str, *more: str, **settings: Any) -> Answer:
        """Raises ClientError, Failed."""
        return self.client.call(method, *collection(self.namespace), self.name, *more, **settings)


def collection(namespace: str) -> tuple[str, ...]:
    """Where services of a namespace are written."""
    return (*_WRITES, namespace, "services")


def split(client: Client, name: str, namespace: str | None) -> Target:
    """`NS/NAME` names both. Raises ClientError, Failed."""
    before, slash, after = name.partition("/")
    return Target(client, before, after) if slash else Target(client, namespace or Own.of(client).namespace, name)


def namespace_option(text: str, *, short: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--namespace`; without `-n` where that counts lines, as it does for `tail`."""
    names = ["--namespace", *(["-n"] if short else [])]
    settings: dict[str, Any] = {"metavar": "NS", "envvar": "WAKEGATE_NAMESPACE", "help": text}
    return click.option(*names, shell_complete=_complete_namespaces, **settings)


in_namespace = namespace_option(f"{_DEFAULT}, or `default`.")
in_namespaces = namespace_option(f"{_DEFAULT}; all of them if it has every namespace.")


if_match = click.option("--if-match", metavar="ETAG", help="Only if it is still as `get` showed it with this etag.")


def on_service(command: Callable[..., Any], *, short: bool = True) -> Callable[..., Any]:
    """The command is about one service: it gets a `target`; its calls that fail end it with exit status 1."""

    def resolved(*, name: str, namespace: str | None, **rest: Any) -> Any:
        return command(target=split(find(), name, namespace), **rest)

    guarded = calls_the_api(functools.wraps(command)(resolved))
    argument = click.argument("name", metavar="[NS/]NAME", shell_complete=_complete_services)
    return argument(namespace_option(f"Or write NAME as NS/NAME. {_DEFAULT}, or `default`.", short=short)(guarded))


def on_lines(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command whose `-n` is a number of lines."""
    return on_service(command, short=False)


def choices(*values: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What the shell offers for an option whose values the API judges."""
    return lambda _, __, begun: [value for value in values if value.startswith(begun)]


# Completion


def _complete_namespaces(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    return _items(begun, _soon(lambda client: list(Own.of(client).inhabited)))


def _complete_services(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    owner, slash, start = begun.rpartition("/")
    chosen = owner if slash else context.params.get("namespace")
    found = _soon(lambda client: list(_names(client, chosen or Own.of(client).namespace)))
    return _items(start, found, prefix=owner + slash)


def _soon(ask: Callable[[Client], list[str]]) -> list[str]:
    """What the API answers if it answers soon, else nothing: whoever types is not to be kept waiting nor told."""
    found: list[str] = []

    def work() -> None:
        with contextlib.suppress(ClientError, Failed, LookupError, TypeError):
            found.extend(ask(find(timeout=_COMPLETION_TIMEOUT)))

    thread = threading.Thread(target=work, name="completion", daemon=True)
    thread.start()
    thread.join(_COMPLETION_TIMEOUT)
    return list(found)


def _names(client: Client, namespace: str) -> Iterator[str]:
    for page in range(1, _PAGES + 1):
        body = client.call("GET", namespace, "services", query={"page": page, "limit": _PAGE}).body
        yield from (service["name"] for service in body["items"])
        if page * _PAGE >= body["total"]:
            return


def _items(begun: str, values: Sequence[str], prefix: str = "") -> list[CompletionItem]:
    found = sorted(value for value in values if value.startswith(begun) and _SHOWN.fullmatch(value))
    return [CompletionItem(prefix + value) for value in found]
