"""`wakegate services list` and `get`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import click

from wakegate.client import Answer, Client, Own, find
from wakegate.commands.naming import Target, in_namespace, on_service
from wakegate.commands.output import as_json, calls_the_api, echo_json, note, print_rows
from wakegate.commands.progress import print_service
from wakegate.commands.suggestions import choices
from wakegate.commands.views import SERVICE_COLUMNS, service_row

STATUSES: Final = ("deploying", "running", "degraded", "stopped", "failed")
PAGE: Final = 100  # the most that the API gives at once
_PATIENCE: Final = 120.0  # seconds that reading all pages waits for the rate limit


@click.command(name="list")
@in_namespace
@click.option("--status", help=f"Only these: {', '.join(STATUSES)}.", shell_complete=choices(*STATUSES))
@click.option("--page", type=int, default=1, show_default=True)
@click.option("--limit", type=int, default=PAGE, show_default=True, help="Services of a page.")
@click.option("--all", "everything", is_flag=True, help="All pages.")
@as_json
@calls_the_api
def list_(namespace: str | None, status: str | None, page: int, limit: int, everything: bool, as_json: bool) -> None:
    """List the services of a namespace."""
    client = find()
    own = None if namespace else Own.of(client)
    namespace = own.namespace if own else str(namespace)
    if everything:
        body = read_all(client, namespace, status)
        text = json.dumps(body, ensure_ascii=False)
    else:
        answer = _page(client, namespace, status, page, limit)
        body, text = answer.body, answer.text
    echo_json(text) if as_json else print_rows(SERVICE_COLUMNS, map(service_row, body["items"]))
    if own:
        _tell_others(own)
    if page * limit < body["total"] and not everything and not as_json:
        note(f"{len(body['items'])} of {body['total']}; --page {page + 1} shows more, --all all")


def _page(client: Client, namespace: str, status: str | None, page: int, limit: int, patience: float = 0.0) -> Answer:
    query = {"status": status, "page": page, "limit": limit}
    return client.call("GET", namespace, "services", query=query, patience=patience)


def read_all(
    client: Client, namespace: str, status: str | None = None, *, most: int | None = None, patience: float = _PATIENCE
) -> dict[str, Any]:
    """All pages as one, or the first `most` services; one that moves between pages meanwhile is there once.

    `patience`: seconds that each page waits for an API that is gone or limits the rate. Raises ClientError, Failed.
    """
    found: dict[str, Mapping[str, Any]] = {}
    page, total = 0, 1
    while page * PAGE < min(total, total if most is None else most):
        page += 1
        body = _page(client, namespace, status, page, PAGE, patience).body
        found |= {service["id"]: service for service in body["items"]}
        total = body["total"]
    items = list(found.values())[:most]
    return {"items": items, "page": 1, "limit": max(PAGE, len(items)), "total": total}


def _tell_others(own: Own) -> None:
    """A table of one namespace says nothing of the others: who did not choose it learns of them."""
    if others := [namespace for namespace in own.inhabited if namespace != own.namespace]:
        note(f"this is namespace {own.namespace}; --namespace shows those of: {', '.join(others)}")


@click.command()
@as_json
@on_service
def get(target: Target, as_json: bool) -> None:
    """Show one service."""
    answer = target.read()
    print_service(answer.body, answer.text, as_json=as_json, etag=answer.headers.get("etag"))
