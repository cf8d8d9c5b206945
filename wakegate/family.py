"""The processes of one node: started, heard, judged, reaped, and told who accepts for whom.

Laws kept: a child's silence is judged on a clock of attention, never by the supervisor's own stalls; what is decided is
pure (`wakegate.supervision`), what is done is here. `wakegate.supervisor` says which processes are wanted when.

The start message of a child: `config` (JSON, addresses with their real ports), `node`, `supervisor`, `incarnation`,
`store` (URL), `secret_key_file`, `api_token` (by which the API knows its own gateway); a worker's `number`, `http`,
`https` (descriptors, over addresses over workers) and `certificates_key` (`state.secret_key.DerivedKey`); control's
`api` (descriptors), `gone` (incarnations of workers that ended), `serving` (the node has said that it is ready) and
`evacuate` (the node stops: its replicas go to others). A child that exits with status 78 (EX_CONFIG) says that starting
it again is pointless.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

from wakegate import supervision
from wakegate.children import Child, Process, spawn_child
from wakegate.config import Config
from wakegate.errors import ServeError
from wakegate.holdings import Holdings
from wakegate.pipe import Message
from wakegate.slots import Slot
from wakegate.terminal import visible

_REMEMBERED_GONE = 1000  # ended workers of which control is told
_EX_CONFIG = 78


class Family:
    """The process tree. `say` gets lines for the operator."""

    def __init__(self, holdings: Holdings, tasks: asyncio.TaskGroup, say: Callable[[str], None]) -> None:
        self.config: Config = holdings.config
        self.clock = 0.0  # s of attention
        self.adopting = True
        self.evacuating = False
        self._serving = False
        self.workers: list[Slot[Child]] = []
        self.control: Slot[Child] | None = None
        self.store: Slot[Process] | None = None
        if self.config.runs_workers:
            numbers = range(1, self.config.workers + 1)
            self.workers = [Slot(f"worker {number}", partial(self._start_worker, number)) for number in numbers]
        if self.config.runs_control:
            self.control = Slot("control", self._start_control)
        if holdings.store:
            self.store = Slot("valkey-server", self._start_store)
        self._holdings = holdings
        self._tasks = tasks
        self._say = say
        self._wanted: list[Slot[Any]] = []
        self._processes: dict[int, Process] = {}  # by pid, all that were not reaped yet
        self._gone: deque[str] = deque(maxlen=_REMEMBERED_GONE)
        self.on_gone: Callable[[Collection[str]], None] = lambda _: None
        """Told the incarnations of the workers that have ended."""
        self._pings = 0
        self._changed = asyncio.Event()
        self._pointless = ""

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition over this object. Raises ServeError when a child can't ever start."""
        while not condition():
            if self._pointless:
                raise ServeError(self._pointless)
            self._changed.clear()
            await self._changed.wait()

    def changed(self) -> None:
        """Look at the conditions again."""
        self._changed.set()

    def want(self, slots: Iterable[Slot[Any]]) -> None:
        """Keep these filled from now on."""
        self._wanted += slots
        self._fill()

    def unwant(self, slots: Iterable[Slot[Any]]) -> None:
        left = list(slots)
        self._wanted = [slot for slot in self._wanted if slot not in left]

    @property
    def ready(self) -> bool:
        """Whether all that is wanted is there."""
        return all(slot.ready for slot in self._wanted)

    def wants(self, slot: Slot[Any]) -> bool:
        """Whether it is kept filled."""
        return slot in self._wanted

    @property
    def empty(self) -> bool:
        return not self._processes

    def living(self, role: str = "") -> list[Child]:
        """The living workers, control or both, also those that were replaced and still drain."""
        children = (process for process in self._processes.values() if isinstance(process, Child))
        return [child for child in children if child.role.startswith(role)]

    def serve(self) -> None:
        """The node is ready: control says so to others from now on, also one that is started anew."""
        self._serving = True
        for control in self.living("control"):
            control.send({"serving": True})

    def evacuate(self) -> None:
        """Control has other nodes take over what runs here, from now on, also if it is started anew."""
        self.evacuating = True
        for control in self.living("control"):
            control.send({"evacuate": True})

    def kill(self, processes: Iterable[Process]) -> None:
        for process in processes:
            process.leaving = True
            process.kill()

    def kill_all(self) -> None:
        """For good: nothing takes their places."""
        self._wanted.clear()
        self.kill(list(self._processes.values()))

    # Starting

    def _fill(self) -> None:
        for slot in self._wanted:
            try:
                slot.fill(self.clock)
            except OSError as error:
                delay = slot.failed(self.clock)
                self._say(f"{slot.role} can't be started: {error}; next try in {delay:g} s")

    def _start_store(self) -> Process:
        assert self._holdings.store is not None  # noqa: S101 - there is no slot otherwise
        process = self._holdings.store.start(self.clock)
        self._processes[process.pid] = process
        return process

    def _start_worker(self, number: int) -> Child:
        held = self._holdings
        http, https, key = held.http_descriptors(), held.https_descriptors(), held.certificates_key
        assert key is not None  # noqa: S101 - whoever runs workers has it
        descriptors = [descriptor for address in (*http, *https) for descriptor in address]
        start = {"number": number, "http": http, "https": https, "certificates_key": key.to_json()}
        return self._start_child(f"worker {number}", descriptors, start)

    def _start_control(self) -> Child:
        api = self._holdings.api_descriptors()
        start = {"api": api, "gone": list(self._gone), "serving": self._serving, "evacuate": self.evacuating}
        return self._start_child("control", api, start)

    def _start_child(self, role: str, descriptors: list[int], start: Message) -> Child:
        held = self._holdings
        child, sock = spawn_child(role, [*descriptors, *held.store_descriptors()], self.clock)
        self._processes[child.pid] = child
        common = {
            "config": self.config.to_json(),
            "node": held.node,
            "supervisor": held.supervisor,
            "incarnation": child.incarnation,
            "store": held.store_url,
            "secret_key_file": str(self.config.secret_key_file),
            "api_token": held.api_token,
        }
        self._tasks.create_task(child.connect(sock, common | start, self._heard))
        return child

    # Ending

    def reap(self) -> None:
        """Collect every ended process; as pid 1 of a container also those that are not ours."""
        for pid, status in _ended_processes():
            if process := self._processes.pop(pid, None):
                process.ended(status)
                self._ended(process)
        self._fill()
        self._adopt()
        self.changed()

    def _ended(self, process: Process) -> None:
        if isinstance(process, Child) and process.role != "control":
            self._gone.append(process.incarnation)
            self.on_gone(self._gone)
            if self.control and self.control.process:
                self.control.process.send({"gone": list(self._gone)})
        slot = next((slot for slot in self._slots() if slot.holds(process)), None)
        if slot is None:
            return
        delay = slot.ended(process, self.clock)
        if process.leaving or slot not in self._wanted:
            return
        text = f"{process} {_how(process)}"
        if slot is self.store and self._holdings.store and (process.status or 0) >= 0:
            text += f": {self._holdings.store.complaint()}"
        if not slot.ever_ready and (slot is self.store or process.status == _EX_CONFIG or slot.hopeless):
            self._pointless = text
        else:
            self._say(f"{text}; restarting{f' in {delay:g} s' if delay else ''}")

    def _slots(self) -> Iterator[Slot[Any]]:
        yield from self.workers
        yield from (slot for slot in (self.control, self.store) if slot is not None)

    # What children say, and their silence

    def _heard(self, child: Child, message: Message) -> None:
        first = not child.answered
        child.answer(self.clock)
        if first:
            self.changed()
        if "ready" in message:
            child.ready = True
            for slot in self._slots():
                slot.ever_ready = slot.ever_ready or slot.process is child
            self._adopt()
            self.changed()
        elif "say" in message:
            self._say(visible(str(message["say"])))
        elif "unacknowledged" in message:
            child.unacknowledged = frozenset(str(worker).rpartition("/")[2] for worker in message["unacknowledged"])

    async def beat(self) -> None:
        """The heartbeat, forever: the clock of attention, judgement of silence, pings."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(supervision.PING_INTERVAL)
            now = loop.time()
            self.clock += supervision.attended(now - last)
            last = now
            self._judge()
            self._fill()
            self._adopt()
            self._pings += 1
            for child in self.living():
                child.ping(self._pings)

    def _judge(self) -> None:
        control = self.control.process if self.control else None
        waited_for = control.unacknowledged if control else frozenset()
        for process in self._processes.values():
            if process.condemned:
                continue
            hearing = process.hearing(self.clock)
            if supervision.lost(hearing, waited_for=isinstance(process, Child) and process.incarnation in waited_for):
                self._say(f"{process} has not answered for {hearing.silence:.0f} s: killed")
                process.kill()
            elif process.deadline is not None and self.clock > process.deadline:
                self._say(f"{process} did not end in time: killed")
                process.kill()

    def _adopt(self) -> None:
        """Tell each worker whose sockets it serves as well, when that changed."""
        if not self.adopting:
            return
        children = [slot.process for slot in self.workers]
        accepting = [supervision.accepts(child.hearing(self.clock) if child else None) for child in children]
        for child, indexes in zip(children, supervision.adoptions(accepting), strict=True):
            numbers = tuple(index + 1 for index in indexes)
            if child and child.ready and child.adopted != numbers:
                child.adopted = numbers
                child.send({"adopt": list(numbers)})


def _ended_processes() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield ended


def _how(process: Process) -> str:
    status = process.status or 0
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"exited with status {status}"
