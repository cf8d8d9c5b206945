"""Which service, and whose: what nearly every command takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from wakegate.client import Answer, Client, Own, find
from wakegate.commands.output import calls_the_api
from wakegate.commands.suggestions import namespaces, services

_WRITES: Final = ("auth", "v1", "seed")
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
    return click.option(*names, shell_complete=namespaces, **settings)


in_namespace = namespace_option(f"{_DEFAULT}, or `default`.")
in_namespaces = namespace_option(f"{_DEFAULT}; all of them if it has every namespace.")
if_match = click.option("--if-match", metavar="ETAG", help="Only if it is still as `get` showed it with this etag.")


def on_service(command: Callable[..., Any], *, short: bool = True) -> Callable[..., Any]:
    """The command is about one service: it gets a `target`; its calls that fail end it with exit status 1."""

    def resolved(*, name: str, namespace: str | None, **rest: Any) -> Any:
        return command(target=split(find(), name, namespace), **rest)

    guarded = calls_the_api(functools.wraps(command)(resolved))
    argument = click.argument("name", metavar="[NS/]NAME", shell_complete=services)
    return argument(namespace_option(f"Or write NAME as NS/NAME. {_DEFAULT}, or `default`.", short=short)(guarded))


def on_lines(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command whose `-n` is a number of lines."""
    return on_service(command, short=False)
