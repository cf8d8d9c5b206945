"""`wakegate services`: list, get, create, delete, logs, events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import click

from wakegate.client import Client, Own, find
from wakegate.commands.output import as_json, calls_the_api, echo_json, fail, print_facts, print_rows, status_text
from wakegate.commands.progress import follow_deployment
from wakegate.terminal import visible

_POLL: Final = 0.5  # seconds between looks at new log lines
_PATH: Final = ("auth", "v1", "seed")

_namespace = click.option(
    "--namespace",
    metavar="NS",
    envvar="WAKEGATE_NAMESPACE",
    help="Or write NAME as NS/NAME. Default: WAKEGATE_NAMESPACE, or that of your key, or `default`.",
)
_name = click.argument("name", metavar="[NS/]NAME")


def _split(client: Client, name: str, namespace: str | None) -> tuple[str, str]:
    """`NS/NAME` names both."""
    before, slash, after = name.partition("/")
    return (before, after) if slash else (namespace or Own.of(client).namespace, name)


@click.group()
def services() -> None:
    """Services: HTTP endpoints that scale by themselves, down to zero."""


@services.command(name="list")
@_namespace
@click.option("--status", help="Only these: deploying, running, degraded, stopped or failed.")
@click.option("--page", type=int, default=1, show_default=True)
@click.option("--limit", type=int, default=100, show_default=True)
@as_json
@calls_the_api
def list_(namespace: str | None, status: str | None, page: int, limit: int, as_json: bool) -> None:
    """List the services of a namespace."""
    client = find()
    own = None if namespace else Own.of(client)
    namespace = own.namespace if own else namespace
    answer = client.call("GET", str(namespace), "services", query={"status": status, "page": page, "limit": limit})
    items, total = answer.body["items"], answer.body["total"]
    if as_json:
        echo_json(answer.text)
    else:
        print_rows(("NAME", "STATUS", "REPLICAS", "SOURCE", "ENDPOINT"), [_row(item) for item in items])
    if own:
        _tell_others(own)
    if len(items) < total and not as_json:
        click.echo(f"{len(items)} of {total}; --page {page + 1} shows more", err=True)


def _tell_others(own: Own) -> None:
    """A table of one namespace says nothing of the others: who did not choose it learns of them."""
    if others := [namespace for namespace in own.inhabited if namespace != own.namespace]:
        listed = ", ".join(others)
        click.echo(visible(f"this is namespace {own.namespace}; --namespace shows those of: {listed}"), err=True)


def _row(service: Mapping[str, Any]) -> list[Any]:
    replicas = service["replicas"]
    ready = f"{replicas['ready']}/{replicas['desired']}"
    return [service["name"], status_text(service["status"]), ready, _source(service), service["endpoint"]]


def _source(service: Mapping[str, Any]) -> str:
    return f"{service['repo']}@{service['branch']}" if service["repo"] else str(service["image"])


@services.command()
@_name
@_namespace
@as_json
@calls_the_api
def get(name: str, namespace: str | None, as_json: bool) -> None:
    """Show one service."""
    client = find()
    namespace, name = _split(client, name, namespace)
    answer = client.call("GET", namespace, "service", name)
    if as_json:
        echo_json(answer.text)
    else:
        _show(answer.body)


def _show(service: Mapping[str, Any]) -> None:
    replicas = ", ".join(f"{count} {state}" for state, count in service["replicas"].items())
    scaling = ", ".join(f"{name} {value}" for name, value in service["scaling"].items())
    domain = service["domain"]
    print_facts(
        {
            "name": f"{service['namespace']}/{service['name']}",
            "id": service["id"],
            "status": status_text(service["status"]),
            "endpoint": service["endpoint"],
            "source": _source(service),
            "deployment": _deployment(service["deployment"]),
            "rollout": _deployment(service["rollout"]),
            "replicas": f"{replicas} (from {service['min_replicas']} to {service['max_replicas']})",
            "scaling": scaling,
            "resources": f"cpu {service['cpu']}, memory {service['memory']} GiB, limits {service['limits']}, "
            f"gpu {service['gpu']}" + (f" x {service['gpu_count']}" if service["gpu_count"] else ""),
            "health check": service["health_check_path"],
            "env": ", ".join(service["env"]),
            "region": service["region"],
            "domain": f"{domain['name']}: {domain['status']}" if domain else None,
            "created": service["created_at"],
            "updated": service["updated_at"],
        }
    )


def _deployment(deployment: Mapping[str, Any] | None) -> str | None:
    if deployment is None:
        return None
    commit = f" at {deployment['commit'][:12]}" if deployment["commit"] else ""
    reason = f": {deployment['reason']}" if deployment["reason"] else ""
    return f"{deployment['state']}{commit}{reason}"


def _assignment(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE`, repeated."""
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs


_SCALING: Final[tuple[tuple[str, type, str], ...]] = (
    ("concurrency", int, "requests at once per replica; 0 = no limit"),
    ("target_concurrency", int, "requests per replica that scaling aims at"),
    ("idle_timeout", int, "seconds without requests before sleep"),
    ("scale_down_delay", int, "seconds of less demand before a replica goes"),
    ("hold_timeout", int, "longest hold of a request, seconds"),
    ("startup_timeout", int, "seconds that a replica may take to start"),
    ("affinity", str, "cookie = clients come back to their replica [default: none]"),
)
_FIELDS: Final[tuple[tuple[str, type, str], ...]] = (
    ("repo", str, "repository, namespace/repo"),
    ("image", str, "container image"),
    ("branch", str, "branch of the repository [default: main]"),
    ("gpu", str, "A100-40GB, A100-80GB, H100-80GB, L4, T4 or none [default: none]"),
    ("gpu_count", int, "1, 2, 4 or 8"),
    ("cpu", int, "vCPUs: 2, 4, 8, 16, 32 or 64"),
    ("memory", int, "GiB"),
    ("min_replicas", int, "0 = sleeps when idle"),
    ("max_replicas", int, "1-100"),
    ("target_gpu_utilization", int, "percent, 10-95"),
    ("port", int, "where a container listens"),
    ("health_check_path", str, "must answer 200"),
    ("region", str, "where it runs"),
    ("custom_domain", str, "a domain of your own"),
)


def _create_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option per field of the API; what is not given is left to the API's defaults."""
    for name, kind, help_text in reversed((*_FIELDS, *_SCALING)):
        command = click.option("--" + name.replace("_", "-"), name, type=kind, help=help_text)(command)
    return command


@services.command()
@_name
@_namespace
@_create_options
@click.option("--env", multiple=True, callback=_assignment, metavar="KEY=VALUE", help="Environment; repeatable.")
@click.option("--wait", is_flag=True, help="Until the deployment serves or has failed, with its progress.")
@click.option("--timeout", type=float, default=1800.0, show_default=True, help="Of --wait, seconds.")
@as_json
@calls_the_api
def create(name: str, namespace: str | None, wait: bool, timeout: float, as_json: bool, **fields: Any) -> None:
    """Create a service from a repository or an image."""
    client = find()
    namespace, name = _split(client, name, namespace)
    answer = client.call("POST", *_PATH, namespace, "services", body={"name": name, **_body(fields)})
    if wait:
        show = None if as_json else lambda line: click.echo(visible(line), err=True)
        service, reason = follow_deployment(client, namespace, name, show, timeout)
        click.echo(json.dumps(service)) if as_json else _show(service)
        if reason:
            fail(reason)
    elif as_json:
        echo_json(answer.text)
    else:
        _show(answer.body)


def _body(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in fields.items() if value is not None}
    scaling = {name: given.pop(name) for name, _, _ in _SCALING if name in given}
    return {"gpu": "none", **given, **({"scaling": scaling} if scaling else {})}


@services.command()
@_name
@_namespace
@click.option("--force", is_flag=True, help="Cut requests in flight instead of letting them finish.")
@as_json
@calls_the_api
def delete(name: str, namespace: str | None, force: bool, as_json: bool) -> None:
    """Delete a service: its endpoint answers 503 from now on."""
    client = find()
    namespace, name = _split(client, name, namespace)
    client.call("DELETE", *_PATH, namespace, "services", name, query={"force": "true" if force else None})
    if not as_json:
        click.echo(visible(f"deleted {namespace}/{name}"))


@services.command()
@_name
@_namespace
@click.option("--limit", "-n", type=int, default=100, show_default=True, help="The newest lines.")
@click.option("--since", metavar="TIME", help="Only after this time, such as 2026-03-18T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Only up to this time.")
@click.option("--replica", metavar="ID")
@click.option("--deployment", metavar="ID")
@click.option("--stream", help="stdout, stderr or build")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until interrupted.")
@as_json
@calls_the_api
def logs(name: str, namespace: str | None, follow: bool, as_json: bool, **query: Any) -> None:
    """Show the lines that replicas and builds wrote."""
    client = find()
    namespace, name = _split(client, name, namespace)
    path = (namespace, "service", name, "logs")
    if not follow:
        answer = client.call("GET", *path, query=query)
        echo_json(answer.text) if as_json else _print_lines(answer.body["items"])
        return
    for items in _follow(client, path, query):
        if as_json:
            for item in items:
                click.echo(json.dumps(item))
        else:
            _print_lines(items)


def _follow(client: Client, path: Sequence[str], query: Mapping[str, Any]) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Pages of lines as they come. The cursor resumes where the last page ended."""
    wanted = dict(query)
    while True:
        body = client.call("GET", *path, query=wanted).body
        yield body["items"]
        if body["next"] is not None:
            wanted |= {"cursor": body["next"], "since": None, "limit": 10_000}
        time.sleep(_POLL)


def _print_lines(items: Sequence[Mapping[str, Any]]) -> None:
    for item in items:
        replica = (item["replica"] or "-" * 6)[-6:]
        click.echo(visible(f"{item['time']} {replica} {item['stream']:6} {item['line']}"))


@services.command()
@_name
@_namespace
@click.option("--limit", "-n", type=int, default=100, show_default=True, help="The newest events.")
@as_json
@calls_the_api
def events(name: str, namespace: str | None, limit: int, as_json: bool) -> None:
    """Show what happened to a service, and why."""
    client = find()
    namespace, name = _split(client, name, namespace)
    answer = client.call("GET", namespace, "service", name, "events", query={"limit": limit})
    if as_json:
        echo_json(answer.text)
    else:
        print_rows(("TIME", "EVENT", "REASON"), [[e["time"], e["kind"], e["reason"]] for e in answer.body["items"]])
