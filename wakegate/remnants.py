"""What runs on a node without control: found by the supervisor when it stops, for control or the operator to end.

Replicas outlive the control that started them (law 4). Nothing is adopted, ended or written here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from activator.drivers.process.layout import Layout
from activator.drivers.process.records import Records
from wakegate.config import Config


def running(config: Config) -> list[str]:
    """The replicas of the process driver that live, in words. Of containers only their engine knows."""
    if config.driver != "process":
        return []
    try:
        found = Records(Layout(config.data_dir, os.geteuid() == 0).replicas).running()
    except (OSError, ValueError, TypeError) as error:
        return [f"what is on record in {config.data_dir} (it can't be read: {error})"]
    return [f"replica {name} (pid {pid})" for name, pid in found.items()]


def complaint(config: Config, found: Sequence[str], *, control_ended: bool) -> str:
    """What to tell of a stop that should have ended everything; empty: it has. `found`: `running` after it;
    `control_ended`: by itself, and said that all went well."""
    if config.driver != "process" and not control_ended:
        found = ["what the engine still has of this node"]
    if not found:
        return ""
    what = ", ".join(found)
    return (
        f"left running: {what}. Start `wakegate serve` on {config.data_dir} again: it adopts what is still wanted, "
        f"and ends the rest; its stop ends all"
    )
