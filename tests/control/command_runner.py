"""Commands against the API of the rig, as a person or a script would give them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from click.testing import CliRunner, Result

from state.codec import encode
from state.ids import now_us
from state.kinds import Kind
from state.models import DeploymentState, Event
from state.store import Change
from wakegate.cli import main

Run = Callable[..., Awaitable[Result]]


def invoke(*arguments: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), env=env, input=stdin, prog_name="wakegate")


def runner(rig: Any) -> Run:
    """Run a command in a thread, as the API lives in this loop."""

    async def run(*arguments: str, stdin: str | None = None, **more: str) -> Result:
        env = {"WAKEGATE_API_URL": rig.url, "WAKEGATE_API_KEY": rig.token, **more}
        return await asyncio.to_thread(invoke, *arguments, env=env, stdin=stdin)

    return run


async def proceed(rig: Any, state: DeploymentState, reason: str | None = None, name: str = "api") -> str:
    """What the activator does as the newest deployment of a service in `acme` proceeds; its id."""
    service = rig.catalogue.service("acme", name)
    deployment = replace(rig.catalogue.facts(service).latest, state=state, reason=reason, proven=True)
    changes = [Change(Kind.DEPLOYMENT, deployment.id, encode(deployment))]
    if state is DeploymentState.ACTIVE:
        if service.active not in (None, deployment.id):
            old = replace(rig.catalogue.facts(service).active, state=DeploymentState.SUPERSEDED)
            changes.append(Change(Kind.DEPLOYMENT, old.id, encode(old)))
        changes.append(Change(Kind.SERVICE, service.id, encode(replace(service, active=deployment.id))))
    await rig.store.append_event(service.id, Event(now_us(), f"deployment.{state}", reason or "as planned"))
    await rig.mirror.reached(await rig.store.commit(changes))
    return str(deployment.id)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
