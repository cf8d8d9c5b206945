"""The supervisor, `wakegate serve`: the life of a node from its first process to its last.

Laws kept: the listening sockets are its own, so that no pending connection dies with a worker; two never run on one
data directory; it stops in the order workers, control with the replicas, store; of a shared store other nodes begin to
take over the replicas first. It knows no HTTP and loads nothing of the gateway or of control; of the store's client
only where there is no control.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable

from wakegate import remnants, supervision
from wakegate.config import Config
from wakegate.errors import ServeError
from wakegate.family import Family
from wakegate.holdings import Holdings
from wakegate.notify import notify, reloading
from wakegate.store_watch import StoreWatch
from wakegate.terminal import visible_lines

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
_STORE_STOP = 20.0  # s for the store to flush and end
_AT_ONCE = 2.0  # s for control to kill the replicas when stopping at once
_CONTROL_START = 20.0  # s for a control that is being started when the stop comes: it has replicas to stop


def say(text: str) -> None:
    """Tell the operator, mostly one line. A closed terminal must not end the supervisor."""
    with contextlib.suppress(OSError):
        sys.stdout.write(visible_lines(text) + "\n")
        sys.stdout.flush()


def await_signals() -> None:
    """What comes from now on waits for the supervisor: by default it would end us between two steps of the start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)


class Supervisor:
    """One life of `wakegate serve`."""

    def __init__(self, holdings: Holdings, reconfigure: Callable[[], Config | None]) -> None:
        """`reconfigure` reads the configuration anew for SIGHUP; None: it is wrong, and that was said."""
        self._holdings = holdings
        self._reconfigure = reconfigure
        self._tasks = asyncio.TaskGroup()
        self._family = Family(holdings, self._tasks, say)
        self._stops = 0
        self._keep_replicas = False
        self._hangup = asyncio.Event()
        self._control_ended = False  # by itself, having done what it was told

    async def run(self) -> None:
        """Serve until told to stop. Raises ServeError when that is not possible."""
        self._handle_signals()
        try:
            async with self._tasks:
                background = [self._tasks.create_task(self._family.beat()), self._tasks.create_task(self._reloads())]
                if self._holdings.store and self._family.store:
                    watch = StoreWatch(self._holdings.store, self._family.store, say, self._family.changed)
                    background.append(self._tasks.create_task(watch.run(lambda: self._family.clock)))
                async with self._departures():
                    await self._serve()
                for task in background:
                    task.cancel()
        except* ServeError as group:
            raise group.exceptions[0] from None
        finally:
            self._family.kill_all()
            self._holdings.close_sockets()

    @contextlib.asynccontextmanager
    async def _departures(self) -> AsyncIterator[None]:
        """Where there is no control, the registrations of workers that were killed are ended here."""
        if self._family.control is not None:
            yield
            return
        from wakegate.departures import Departures  # the store's client, which no other supervisor loads

        held = self._holdings
        departures = Departures(held.store_url, node=held.node, supervisor=held.supervisor)
        self._family.on_gone = departures.gone
        task = self._tasks.create_task(departures.run(), name="departures")
        try:
            yield
        finally:
            task.cancel()
            await departures.close()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._family.reap)
        loop.add_signal_handler(signal.SIGTERM, self._stop, False)
        loop.add_signal_handler(signal.SIGINT, self._stop, False)
        loop.add_signal_handler(signal.SIGUSR2, self._stop, True)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # recipes of logrotate for others send it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def _stop(self, keep_replicas: bool) -> None:
        self._stops += 1
        self._keep_replicas = self._keep_replicas or keep_replicas
        self._family.changed()

    @property
    def _stopping(self) -> bool:
        return self._stops > 0

    @property
    def _at_once(self) -> bool:
        return self._stops > 1

    async def _serve(self) -> None:
        family = self._family
        if family.store:
            family.want([family.store])
            await family.until(lambda: self._stopping or family.ready)
        if not self._stopping:
            family.want([*family.workers, *([family.control] if family.control else [])])
            await family.until(lambda: self._stopping or family.ready)
        if not self._stopping:
            for line in self._holdings.addresses():
                say(line)
            say("ready")
            family.serve()
            notify("READY=1", "STATUS=serving")
        await family.until(lambda: self._stopping)
        notify("STOPPING=1", "STATUS=draining")
        await self._end()

    # Stopping

    async def _end(self) -> None:
        """Raises ServeError for a stop that left something running, and for one that went wrong."""
        told = []
        try:
            await self._drain()
        except ServeError as error:
            told.append(str(error))
        if self._family.control and not self._keep_replicas:
            config = self._family.config
            told.append(remnants.complaint(config, remnants.running(config), control_ended=self._control_ended))
        if any(told):
            raise ServeError("\n".join(filter(None, told)))

    async def _drain(self) -> None:
        family = self._family
        family.adopting = False
        self._holdings.close_public()
        if family.config.redis and not self._keep_replicas:
            family.evacuate()
        family.unwant(family.workers)
        for worker in family.living("worker"):
            worker.drain(family.config.drain_timeout, family.clock, reload=False)
        await family.until(lambda: self._at_once or not family.living("worker"))
        family.kill(family.living("worker"))
        await self._stop_control()
        if family.store:
            family.unwant([family.store])
            if store := family.store.process:
                store.leave(family.clock + (_AT_ONCE if self._at_once else _STORE_STOP))
                store.signal(signal.SIGTERM)
        await family.until(lambda: family.empty)

    async def _stop_control(self) -> None:
        family, slot = self._family, self._family.control
        if slot is None:
            return
        if not family.wants(slot) and self._control_is_missed():
            family.want([slot])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONTROL_START):
                await family.until(lambda: self._at_once or not family.wants(slot) or slot.answers)
        family.unwant([slot])
        self._holdings.close_api()
        seconds = supervision.ending_time(family.config.drain_timeout, evacuating=family.evacuating)
        seconds = 0 if self._at_once else seconds
        controls = family.living("control")
        for control in controls:
            control.drain(seconds, family.clock, keep_replicas=self._keep_replicas)
        await family.until(lambda: self._at_once or not family.living("control"))
        for control in family.living("control"):
            control.drain(0, family.clock, keep_replicas=self._keep_replicas)
            control.leave(family.clock + _AT_ONCE)
        await family.until(lambda: not family.living("control"))
        self._control_ended = bool(controls) and all(control.status == 0 for control in controls)

    def _control_is_missed(self) -> bool:
        """Whether what an earlier `serve` left has to be ended, though the stop came before control was started. The
        control that ends it does not need the store."""
        config = self._family.config
        return not self._keep_replicas and (config.driver != "process" or bool(remnants.running(config)))

    # Reloading

    async def _reloads(self) -> None:
        """On each SIGHUP: new workers accept before the old ones stop, then control is started anew."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            config = self._reconfigure()
            if config is None or self._stopping:
                continue
            if not await self._settled() or self._hangup.is_set():
                continue  # told again while it waited: what is configured now counts
            reloading()
            self._family.config = self._holdings.adjusted(config)
            if await self._replace_workers() and await self._replace_control():
                say("reloaded")
            notify("READY=1", "STATUS=serving")

    async def _settled(self) -> bool:
        """Whether all processes are there: one that is being started is waited for, as long as it takes."""
        if not self._family.ready:
            say("reload: waits for a process that is being started")
            await self._family.until(lambda: self._stopping or self._family.ready)
        return not self._stopping

    async def _replace_workers(self) -> bool:
        """One after the other. Whether all were replaced: one that does not become ready ends the attempt."""
        await self._end_surplus()
        for slot in self._family.workers:
            try:
                incoming = slot.fill_beside()
            except OSError as error:
                say(f"reload given up: {slot.role} can't be started: {error}")
                return False
            # The old one may end meanwhile by itself: then the new one has the place already.
            await self._family.until(lambda: self._stopping or incoming.ready or not slot.holds(incoming))  # noqa: B023
            if self._stopping:
                return False
            if not incoming.ready:
                say(f"reload given up: {incoming} did not become ready")
                return False
            if slot.incoming is incoming and (old := slot.replace()):
                seconds = max(supervision.RELOAD_LIMIT, self._family.config.drain_timeout)
                old.drain(seconds, self._family.clock, reload=True)
        return True

    async def _end_surplus(self) -> None:
        """Old workers never pile up: the oldest are cut, though not before the drain time-out is over for them."""
        family = self._family
        surplus = [old for slot in family.workers for old in slot.surplus()]
        for old in surplus:
            since = family.clock if old.drained is None else old.drained
            seconds = supervision.finishing_time(since, family.config.drain_timeout, family.clock)
            say(f"{old} has until now not finished what it had before an earlier reload: cut in {seconds:.0f} s")
            old.drain(seconds, family.clock, reload=False)
        await family.until(lambda: self._stopping or all(old.status is not None for old in surplus))

    async def _replace_control(self) -> bool:
        slot = self._family.control
        if slot is None or slot.process is None:
            return slot is None
        old = slot.process
        old.drain(self._family.config.drain_timeout, self._family.clock, keep_replicas=True)
        await self._family.until(lambda: self._stopping or (slot.process is not old and slot.ready))
        return not self._stopping
