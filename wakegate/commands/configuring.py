"""`wakegate services create`, `update` and `env`: what a service is, and with which environment it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from wakegate.commands import fields
from wakegate.commands.naming import Target, collection, if_match, on_service
from wakegate.commands.output import as_json, echo_json, print_facts, print_rows
from wakegate.commands.progress import Rollout, wait_options


@click.command()
@fields.create_options
@fields.env_options
@wait_options
@as_json
@on_service
def create(
    target: Target,
    env: Mapping[str, str],
    env_file: Mapping[str, str] | None,
    wait: bool,
    timeout: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Create a service from a repository or an image."""
    body = {"name": target.name, "gpu": "none", **fields.body({**given, "env": fields.environment(env, env_file)})}
    rollout = Rollout(target, wait, timeout, as_json)
    rollout.finish(target.client.call("POST", *collection(target.namespace), body=body))


@click.command()
@fields.update_options
@fields.env_options
@if_match
@wait_options
@as_json
@on_service
def update(
    target: Target,
    env: Mapping[str, str],
    env_file: Mapping[str, str] | None,
    clear_env: bool,
    no_custom_domain: bool,
    if_match: str | None,
    wait: bool,
    timeout: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Change a service. What it runs starts a rolling deployment; how it scales restarts nothing.

    --env and --env-file replace all of the environment: `env set` changes single variables.
    """
    environment = fields.environment(env, env_file)
    if clear_env and environment is not None:
        raise click.UsageError("--clear-env and a new environment exclude each other: a new one replaces the old")
    if no_custom_domain and given["custom_domain"] is not None:
        raise click.UsageError("--custom-domain and --no-custom-domain exclude each other")
    body = fields.body({**given, "env": {} if clear_env else environment})
    if no_custom_domain:
        body["custom_domain"] = None
    if not body:
        raise click.UsageError("nothing to change: give one field at least")
    rollout = Rollout.of(target, wait=wait, timeout=timeout, as_json=as_json)
    rollout.finish(target.write("PUT", body=body, if_match=if_match))


@click.command()
@if_match
@as_json
@on_service
def rotate_webhook(target: Target, if_match: str | None, as_json: bool) -> None:
    """Make a new secret for the webhook of a repository; the one before counts no more."""
    answer = target.write("POST", "webhook", if_match=if_match)
    if as_json:
        echo_json(answer.text)
    else:
        print_facts({"webhook": answer.body["url"], "webhook secret": f"{answer.body['secret']} (shown this once)"})


@click.group()
def env() -> None:
    """The environment of a service: list, set, unset."""


@env.command(name="list")
@as_json
@on_service
def list_(target: Target, as_json: bool) -> None:
    """List the names; values can't be read."""
    names = target.read().body["env"]
    click.echo(json.dumps(names)) if as_json else print_rows(("NAME",), [[name] for name in names])


def _writes_env(command: Callable[..., Any]) -> Callable[..., Any]:
    """Stands above the arguments of the command, so that the service is the first."""
    return if_match(wait_options(as_json(on_service(command))))


@env.command(name="set")
@_writes_env
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@fields.env_file
def set_(target: Target, pairs: tuple[str, ...], env_file: Mapping[str, str] | None, **how: Any) -> None:
    """Set variables and keep the others. Starts a rolling deployment."""
    values = fields.environment(fields.assignments(pairs), env_file)
    if not values:
        raise click.UsageError("nothing to set: give KEY=VALUE or --env-file")
    _patch(target, values, **how)


@env.command()
@_writes_env
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
def unset(target: Target, keys: tuple[str, ...], **how: Any) -> None:
    """Take variables away and keep the others. Starts a rolling deployment."""
    _patch(target, dict.fromkeys(keys), **how)


def _patch(
    target: Target,
    changes: Mapping[str, str | None],
    *,
    if_match: str | None,
    wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    rollout = Rollout.of(target, wait=wait, timeout=timeout, as_json=as_json)
    rollout.finish(target.write("PATCH", "env", body=changes, if_match=if_match))
