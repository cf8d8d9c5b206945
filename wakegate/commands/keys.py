"""`wakegate keys`: create, list, get, revoke, own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

import click
from rich.text import Text

from wakegate.client import find
from wakegate.commands.output import as_json, calls_the_api, echo_json, note, print_facts, print_rows
from wakegate.terminal import visible

_SHOWN: Final = ("namespace", "name", "scope", "created_at", "expires_at", "used_at")
_NEVER: Final = "never"


def quoted(token: str) -> str:
    """Single-quoted: shells expand the `$`."""
    return shlex.quote(token)


_of = click.option("--namespace", "-n", metavar="NS", help="Whose key, where several namespaces have one of that name.")


@click.group()
def keys() -> None:
    """Keys of the API: NAME$SECRET, for one namespace or for every (*)."""


@keys.command()
@click.argument("name")
@click.option(
    "--namespace", "-n", metavar="NS", help="Where it counts; * = everywhere. Default: where your own key counts."
)
@click.option("--scope", type=click.Choice(["read", "write", "admin"]), required=True)
@click.option("--expires", metavar="WHEN", help="A span such as 90d, or a time such as 2027-03-18T12:00:00Z.")
@as_json
@calls_the_api
def create(name: str, namespace: str | None, scope: str, expires: str | None, as_json: bool) -> None:
    """Make a key and print it; it is shown this once."""
    body = {"name": name, "namespace": namespace, "scope": scope, "expires": expires}
    answer = find().call("POST", "auth", "v1", "keys", body=body)
    if as_json:
        echo_json(answer.text)
        return
    click.echo(quoted(answer.body["key"]))
    note("Shown this once. Use it as: export WAKEGATE_API_KEY=" + quoted(answer.body["key"]))


@keys.command(name="list")
@as_json
@calls_the_api
def list_(as_json: bool) -> None:
    """List the keys that you may administer."""
    answer = find().call("GET", "auth", "v1", "keys")
    if as_json:
        echo_json(answer.text)
        return
    columns = ("NAMESPACE", "NAME", "SCOPE", "CREATED", "EXPIRES", "LAST USED")
    print_rows(columns, [[key[field] or _NEVER for field in _SHOWN] for key in answer.body["items"]])


@keys.command()
@click.argument("name")
@_of
@as_json
@calls_the_api
def get(name: str, namespace: str | None, as_json: bool) -> None:
    """Show one key, but for its secret, which nobody has any more."""
    answer = find().call("GET", "auth", "v1", "keys", name, query={"namespace": namespace})
    echo_json(answer.text) if as_json else _show(answer.body)


@keys.command()
@as_json
@calls_the_api
def own(as_json: bool) -> None:
    """Show the key that asks, and the namespaces in which it sees services."""
    answer = find().call("GET", "auth", "v1", "key")
    echo_json(answer.text) if as_json else _show(answer.body)


def _show(key: Mapping[str, Any]) -> None:
    facts: dict[str, str | Text | None] = {field.removesuffix("_at"): key[field] or _NEVER for field in _SHOWN}
    print_facts({**facts, "sees": ", ".join(key["namespaces"]) if "namespaces" in key else None})


@keys.command()
@click.argument("name")
@_of
@as_json
@calls_the_api
def revoke(name: str, namespace: str | None, as_json: bool) -> None:
    """Revoke a key: it is refused from now on."""
    find().call("DELETE", "auth", "v1", "keys", name, query={"namespace": namespace})
    if not as_json:
        click.echo(visible(f"revoked {name}"))
