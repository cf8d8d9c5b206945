"""The activator's part in tests of the API: how deployments end, as it would store that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from state.codec import decode, encode
from state.kinds import Kind
from state.models import Deployment, DeploymentState, Scale, Service
from state.store import Change

PATH = "/auth/v1/seed/acme/services/api"
COMMIT = "c0ffee" + "0" * 34


async def stored(rig: Any, service_id: str) -> tuple[Service, Deployment, Scale]:
    """A service, its newest deployment and its scale."""
    service = decode(Service, (await rig.store.get(Kind.SERVICE, service_id)).value)
    latest = decode(Deployment, (await rig.store.get(Kind.DEPLOYMENT, service.latest)).value)
    return service, latest, decode(Scale, (await rig.store.get(Kind.SCALE, service_id)).value)


async def end(
    rig: Any, service_id: str, state: DeploymentState = DeploymentState.ACTIVE, *, source: str = COMMIT, **fields: Any
) -> str:
    """The newest deployment ends like this; returns its id. `source`: the commit or digest, unless it is pinned."""
    service, latest, scale = await stored(rig, service_id)
    changes = []
    if state is DeploymentState.ACTIVE:
        fields["proven"] = True
        fields |= {"digest": latest.digest or source} if latest.run.image else {"commit": latest.commit or source}
        if service.active is not None:
            old = decode(Deployment, (await rig.store.get(Kind.DEPLOYMENT, service.active)).value)
            superseded = replace(old, state=DeploymentState.SUPERSEDED)
            changes.append(Change(Kind.DEPLOYMENT, old.id, encode(superseded)))
        changes.append(Change(Kind.SERVICE, service.id, encode(replace(service, active=latest.id))))
        changes.append(Change(Kind.SCALE, service.id, encode(replace(scale, desired=1))))
    changes.append(Change(Kind.DEPLOYMENT, latest.id, encode(replace(latest, state=state, **fields))))
    await rig.mirror.reached(await rig.store.commit(changes))
    return latest.id


async def active(rig: Any, **fields: Any) -> str:
    """A service `api` whose first deployment is active; returns its id."""
    body = {} if "image" in fields else {"repo": "acme/app"}
    created = await rig.api("POST", "/auth/v1/seed/acme/services", {"name": "api", "gpu": "none", **body, **fields})
    assert created.status == 201, created.text
    service_id: str = created.json["id"]
    await end(rig, service_id)
    return service_id
