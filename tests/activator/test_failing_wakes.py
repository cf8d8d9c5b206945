"""A wake that fails: who is held for it is told why as soon as that is known, and so is its owner."""

from __future__ import annotations

import shutil

import pytest
from plane import Plane, states, until

from activator.coldstarts import seconds
from state.models import Event, Phase, ReplicaState, Scaling

LIMIT = 4  # seconds in which it must be healthy
MUTE = "import os, socket, time; s = socket.create_server(('127.0.0.1', int(os.environ['PORT']))); time.sleep(600)"
ILL = """
import http.server, os
class Ill(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Ill).serve_forever()
"""
ENDS = {
    "exits": ("exit 9", "exited with code 9 while starting", "ready"),
    "mute": (f'exec python3 -c "{MUTE}"', f"it did not answer for {LIMIT} s", "ready"),
    "ill": (f'exec python3 -c "{ILL.strip()}"', f"GET / answered 500 instead of 200 for {LIMIT} s", "ready"),
}


async def refused(plane: Plane, procfile: str) -> tuple[str, Event]:
    """Wake what was healthy before and is broken now: what who was held is told, and the event."""
    plane.repository(procfile="web: [ ! -e $STARTS.broken ] || . $STARTS.broken; exec python3 app.py\n")
    # a check may hang for longer than this test waits for the answer
    control, worker = plane.control(probe_timeout=60.0), await plane.worker()
    service = await plane.create(scaling=Scaling(idle_timeout=1, startup_timeout=LIMIT))
    await until(lambda: states(control.view(service)) == [ReplicaState.READY])
    await until(lambda: states(control.view(service)) == [])
    if procfile:
        (plane.scratch / "app.broken").write_text(procfile)
    else:
        shutil.rmtree(plane.place / "git")
        for checkouts in (plane.data_dir / "process").glob("checkouts/*/*"):
            shutil.rmtree(checkouts)
    assert (await worker.request(service))[0] == 503
    backend = worker.backend(service)
    assert backend is not None
    assert (backend.phase, backend.retry_after) == (Phase.REFUSING, 1)
    events: list[Event] = []
    while not events:
        events = [event for event in await plane.events(service) if event.kind == "replica.failed"]
    assert backend.reason is not None
    return backend.reason, events[0]


@pytest.mark.parametrize("how", ENDS)
async def test_it_is_refused_with_the_reason(plane: Plane, how: str) -> None:
    procfile, reason, phase = ENDS[how]
    told, event = await refused(plane, procfile)
    assert told == reason
    assert event.reason.startswith(f"{reason}; the next request after 1 s tries again")
    assert event.phase == phase
    assert event.phases is not None
    assert list(seconds(event.phases)) == ["decide", "schedule", "start", "ready"]


async def test_what_it_is_made_of_is_nowhere_any_more(plane: Plane) -> None:
    told, event = await refused(plane, "")
    assert "acme/app" in told
    assert event.phase == "fetch"
