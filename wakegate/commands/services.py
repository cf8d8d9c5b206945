"""`wakegate services`: every call of the API that is about services."""

from __future__ import annotations

import click

from wakegate.commands import analytics, configuring, listing, rollouts, running, starts, watching


@click.group()
def services() -> None:
    """Services: HTTP endpoints that scale by themselves, down to zero."""


for _command in (
    *(listing.list_, listing.get, configuring.create, configuring.update, configuring.env, configuring.rotate_webhook),
    *(rollouts.redeploy, rollouts.rollback, rollouts.cancel, rollouts.deployments),
    *(running.sleep, running.wake, running.delete),
    *(watching.logs, watching.events, starts.starts, analytics.analytics),
):
    services.add_command(_command)
