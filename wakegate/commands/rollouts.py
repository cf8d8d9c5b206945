"""`wakegate services redeploy`, `rollback`, `cancel` and `deployments`."""

from __future__ import annotations

import click

from wakegate.commands.naming import Target, if_match, on_service
from wakegate.commands.output import as_json, echo_json, print_rows
from wakegate.commands.progress import Rollout, print_service, wait_options
from wakegate.commands.views import DEPLOYMENT_COLUMNS, deployment_row


@click.command()
@if_match
@wait_options
@as_json
@on_service
def redeploy(target: Target, if_match: str | None, wait: bool, timeout: float, as_json: bool) -> None:
    """Deploy the branch's newest commit, or pull the image again."""
    rollout = Rollout.of(target, wait=wait, timeout=timeout, as_json=as_json)
    rollout.finish(target.write("POST", "redeploy", if_match=if_match))


@click.command()
@click.option("--deployment", metavar="ID", help="To this one. Default: the one that served before.")
@if_match
@wait_options
@as_json
@on_service
def rollback(
    target: Target, deployment: str | None, if_match: str | None, wait: bool, timeout: float, as_json: bool
) -> None:
    """Go back to what an earlier deployment ran."""
    rollout = Rollout.of(target, wait=wait, timeout=timeout, as_json=as_json)
    body = None if deployment is None else {"deployment": deployment}
    rollout.finish(target.write("POST", "rollback", body=body, if_match=if_match))


@click.command()
@if_match
@as_json
@on_service
def cancel(target: Target, if_match: str | None, as_json: bool) -> None:
    """Give up the deployment in progress; what serves goes on."""
    answer = target.write("POST", "cancel", if_match=if_match)
    print_service(answer.body, answer.text, as_json=as_json)


@click.command()
@as_json
@on_service
def deployments(target: Target, as_json: bool) -> None:
    """List the deployments of a service."""
    answer = target.read("deployments")
    echo_json(answer.text) if as_json else print_rows(DEPLOYMENT_COLUMNS, map(deployment_row, answer.body["items"]))
