"""The composition root of the control process: the API, the autoscaler and reconciler, certificates, and this node's
replicas.

The supervisor's word is the pipe; a SIGTERM sent to this process alone drains it and keeps the replicas, since the
supervisor starts another control. A task that fails ends the process, loudly: the next one adopts what it left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from activator.activation import Activation
from activator.branches import Branches
from activator.drivers import NodeUnfit
from activator.drivers.container import Engine, EngineMissing
from activator.logs import Collector, LogStore
from activator.racing import unless
from activator.remotes import Remotes
from control.analytics.collector import Analytics
from control.app import Api
from control.claims.claimant import Claimant
from control.contract.problem import Problem
from control.credentials.gateway import Gateway
from control.credentials.key_use import KeyUse
from control.credentials.keys import Keys
from control.door import DOOR
from control.pushes.hooks import HOOKS
from control.server import ApiServer
from control.services import remains
from control.services.catalogue import Catalogue
from control.services.writes import Services
from control.streaming.streams import Streams
from state.kinds import Kind
from state.leases import Lease
from state.mirror import Mirror
from state.models import RunSpec, Service
from state.secret_key import (
    CERTIFICATES,
    DOMAIN_TOKENS,
    ENVIRONMENT,
    SecretError,
    derive,
    read_secret_key,
)
from state.secrets import Vault
from state.store import Fence, Store, StoreError
from wakegate.beginning import StartError, check_secret_key, first_key, write_url
from wakegate.certification import Certification
from wakegate.client import KEY_FILE
from wakegate.config import Config
from wakegate.counters import FILE, CountersFile
from wakegate.drivers import driver_of, engine_of, git_uid, gpu_sources
from wakegate.metrics import (
    Metrics,
    of_analytics,
    of_domains,
    of_orders,
    of_pushes,
    of_telling,
    of_the_agent,
    of_the_door,
    of_the_gpus,
)
from wakegate.pipe import Message, Pipe
from wakegate.site import log_limits, offer_of, settings, site_of
from wakegate.terminal import log_to_stderr

_LEFT_TO_THE_SUPERVISOR: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_LEASE: Final = "leader"
_MANY: Final = 1000  # objects that came at once, as with a snapshot
_API_GRACE: Final = 5.0  # seconds for API calls in flight: a delete may wait that long
_CERTIFICATES: Final = 5.0  # seconds for the platform's certificate to be made, and as long for all workers to have it

_log = logging.getLogger("wakegate.control")


def main() -> None:
    """Run control until it is drained (exit 0; 75, EX_TEMPFAIL, if replicas that were to end may run on), can't run
    (78, EX_CONFIG) or lost its supervisor (at once)."""
    for number in _LEFT_TO_THE_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)
    log_to_stderr("control")
    uvloop.run(_run())


async def _run() -> None:
    pipe, start = await Pipe.from_env()
    try:
        control = Control(start, pipe, await engine_of(Config.from_json(start["config"])))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, control.drain, Drain(0, keep_replicas=True))
        pipe.on_message = control.told
        await control.run()
        if control.left_some:
            sys.exit(os.EX_TEMPFAIL)
    except* (StartError, SecretError, NodeUnfit, EngineMissing) as group:
        for error in _leaves(group):
            pipe.say(f"error: {error}")
        await asyncio.sleep(0)  # what was said is written
        os._exit(os.EX_CONFIG)  # at once: the supervisor would take the end of the pipe for a failure and kill us


@dataclass(frozen=True, slots=True)
class Drain:
    """How to end: `timeout` seconds at most, with the replicas ended or kept for the next control."""

    timeout: float
    keep_replicas: bool


class Control:
    """One control process. `await run()` is its whole life; `told` gets the supervisor's messages."""

    def __init__(self, start: Mapping[str, Any], pipe: Pipe, engine: Engine | None) -> None:
        self._pipe = pipe
        self._config = config = Config.from_json(start["config"])
        self._secret_key = read_secret_key(Path(start["secret_key_file"]), os.environ.get("WAKEGATE_SECRET_KEY"))
        self._vault = Vault(derive(self._secret_key, ENVIRONMENT))
        self._store = Store(start["store"])
        self._mirror = Mirror(self._store, list(Kind), self._changed, slices=True)
        self._streams = Streams()
        self._catalogue = Catalogue(self._mirror, self._streams.keys_revoked)
        self._logs = LogStore(config.data_dir / "logs", log_limits(config))
        self._collector = Collector(self._logs)
        self._driver = driver_of(config, start["node"], self._collector, engine)
        holder = f"{start['node']}/{start['supervisor']}/control/{start['incarnation']}"
        self._lease = Lease(self._store, _LEASE, holder=holder, owner=start["node"])
        self._metrics = Metrics(CountersFile(config.data_dir / FILE))
        self._analytics = Analytics(
            self._store, self._mirror, lambda: self._lease.fence, lambda: self._activation.gpu_utilization()
        )
        self._activation = self._new_activation(start)
        self._certification = Certification(
            config, self._store, self._mirror, self._lease, self._secret_key, self._activation
        )
        self._key_fits = asyncio.Event()
        self._key_use = KeyUse(self._store, self._mirror)
        self._site = site_of(config, self._driver, lambda: self._certification.issuer.trusted(f"*.{config.domain}"))
        self._services = self._new_services()
        self._branches = self._new_branches()
        self._sockets = [_inherited(fd) for fd in start["api"]]
        api = self._api().application()
        self._door = api[DOOR]
        self._hooks = api[HOOKS]
        proxies = [ipaddress.ip_network(text) for text in config.trusted_proxies]
        gateway = Gateway(start["api_token"], proxies)
        on_cut = self._streams.sending.note_cut
        self._server = ApiServer(api, self._sockets, grace=_API_GRACE, on_cut=on_cut, gateway=gateway)
        self._drain: asyncio.Future[Drain] = asyncio.get_running_loop().create_future()
        self._hurry = asyncio.Event()
        self._begun = False
        self._serving = bool(start["serving"])
        self._activation.gone(start["gone"])
        if start["evacuate"]:
            self._activation.evacuation.begin()

    def _new_activation(self, start: Mapping[str, Any]) -> Activation:
        config = self._config
        offer = offer_of(config, self._driver)
        return Activation(
            self._store,
            self._mirror,
            self._driver,
            self._lease,
            settings(config, start["node"]),
            supervisor=start["supervisor"],
            environment=self._environment,
            build_log=self._logs.build_log,
            offer=offer,
            cold_starts=self._metrics.cold_starts,
            on_unacknowledged=lambda missing: self._pipe.send({"unacknowledged": missing}),
            on_report=self._metrics.report,
            gpus=gpu_sources(config, offer),
        )

    def _new_services(self) -> Services:
        return Services(
            self._store,
            self._mirror,
            self._catalogue,
            self._vault,
            self._activation.acks,
            Claimant(self._site, derive(self._secret_key, DOMAIN_TOKENS).key),
            Vault(derive(self._secret_key, CERTIFICATES)),
            later=self._activation.journal.keep,
        )

    def _new_branches(self) -> Branches:
        config = self._config
        return Branches(
            self._mirror,
            self._activation.catalog,
            Remotes(config.data_dir, config.git_url, uid=git_uid(config)),
            self._pushed,
            self._activation.journal,
            leads=lambda: self._lease.fence is not None,
            interval=config.git_poll,
        )

    def told(self, message: Message) -> None:
        """A message of the supervisor; all are levels and may be repeated."""
        if "evacuate" in message:
            self._activation.evacuation.begin()
        if "serving" in message:
            self._serving = True
        if "gone" in message:
            self._activation.gone(message["gone"])
        if "drain" in message:
            wanted = message["drain"]
            self.drain(Drain(float(wanted["timeout"]), bool(wanted["keep_replicas"])))

    def drain(self, wanted: Drain) -> None:
        """End; a second call with a shorter time hurries the first."""
        if not self._drain.done():
            self._drain.set_result(wanted)
        if wanted.timeout == 0 and not self._drain.result().keep_replicas:
            self._hurry.set()

    async def run(self) -> None:
        """Raises StartError, SecretError, NodeUnfit in a group; and whatever a task of it fails with."""
        async with asyncio.TaskGroup() as tasks:
            life = [
                tasks.create_task(self._mirror.run(), name="mirror"),
                tasks.create_task(self._collector.run(), name="logs"),
                tasks.create_task(self._logs.keep_house(), name="old logs"),
                tasks.create_task(self._lease.run(self._gained, self._lost), name="lease"),
                tasks.create_task(self._activation.run(), name="activation"),
                tasks.create_task(self._branches.run(), name="branches"),
                tasks.create_task(self._keep_certificates(), name="certificates"),
                tasks.create_task(self._sweep(), name="sweeper"),
                tasks.create_task(self._key_use.run(), name="key use"),
                tasks.create_task(self._streams.listen(self._store), name="events"),
                tasks.create_task(self._keep_analytics(), name="analytics"),
            ]
            await self._server.start()
            beginning = tasks.create_task(self._begin(), name="begin")
            wanted = await self._drain
            beginning.cancel()  # nobody needs it any more, and the API's sockets, which it asks, are closed now
            await self._end(wanted)
            await self._analytics.close()
            await self._metrics.close()
            for task in life:
                task.cancel()
        with contextlib.suppress(StoreError):
            await self._lease.release()  # the next node need not wait for our silence
        await self._certification.close()
        await self._collector.close()
        await self._store.close()

    @property
    def left_some(self) -> bool:
        """Whether replicas that were to be ended may run on. For after `run`."""
        agent = self._activation.agent
        return not self._drain.result().keep_replicas and (not agent.adopted or bool(agent.running))

    async def _begin(self) -> None:
        """From a store that answers to a control that is ready."""
        await self._mirror.synced()
        known = self._mirror.revision
        await check_secret_key(self._store, self._secret_key, self._config.secret_key_file)
        self._key_fits.set()
        await self._first_key()
        await self._activation.nodes.joined.wait()
        await self._certificates_served(known)
        await asyncio.to_thread(write_url, self._config.data_dir, *self._sockets[0].getsockname()[:2])
        self._begun = True
        self._pipe.send({"ready": True})

    def _gained(self, fence: Fence) -> None:
        self._activation.gained(fence)
        self._branches.hurry()
        self._certification.hurry()

    def _lost(self) -> None:
        self._activation.lost()
        self._branches.hurry()
        self._certification.hurry()

    async def _keep_certificates(self) -> None:
        """Nothing is sealed or opened before it is known that the key is the right one."""
        await self._key_fits.wait()
        await self._certification.run()

    async def _certificates_served(self, known: int) -> None:
        """Whoever is told that the node is ready can use HTTPS. `known`: the revision that this control began with."""
        try:
            async with asyncio.timeout(_CERTIFICATES):
                revision = await self._certification.internal.stored()
        except TimeoutError:
            domain = self._config.domain
            self._pipe.say(f"no certificate for {domain} yet: the control that leads makes one for its own --domain")
            return
        if revision > known:  # else workers had it in their first snapshot, or have it for long
            await self._activation.acks.wait(revision, _CERTIFICATES)

    async def _keep_analytics(self) -> None:
        await self._mirror.synced()
        await self._analytics.run()

    async def _sweep(self) -> None:
        await self._mirror.synced()
        logs = self._config.data_dir / "logs"
        await remains.Sweeper(self._store, self._mirror, logs, self._logs.remove).run()

    async def _end(self, wanted: Drain) -> None:
        """API calls in flight finish while the replicas end, after they were taken over where the store is shared."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._server.stop(), name="API")
            if not wanted.keep_replicas:
                await unless(self._hurry, self._activation.evacuation.ended())
            hurrying = tasks.create_task(self._kill_in_a_hurry(), name="hurry")
            await self._activation.close(keep=wanted.keep_replicas)
            hurrying.cancel()

    async def _kill_in_a_hurry(self) -> None:
        await self._hurry.wait()
        await self._activation.agent.kill()

    async def _first_key(self) -> None:
        file = self._config.data_dir / KEY_FILE
        token = await first_key(self._store, self._mirror, file)
        if token is not None:
            self._pipe.say(f"admin key (kept in {file}): '{token}'")

    def _changed(self, touched: Any) -> None:
        self._catalogue.changed(touched)
        self._activation.changed(touched)
        self._branches.changed(touched)
        self._analytics.changed(touched)
        self._certification.changed(touched)
        if len(touched) >= _MANY:
            gc.freeze()  # a collection over the objects of 100,000 services would stop the loop for half a second

    async def _pushed(self, service: Service) -> bool:
        """The branch of a service moved. Raises StoreError."""
        try:
            await self._services.redeploy(service.namespace, service.name, cause="push")
        except Problem as problem:
            _log.info("service %s is not redeployed now: %s", service.id, problem)
            return False
        return True

    def _environment(self, service: Service, run: RunSpec) -> Mapping[str, str]:
        """Raises SecretError."""
        opened = self._vault.unseal
        return {name: opened(service.namespace, service.id, name, sealed) for name, sealed in run.env.items()}

    def _api(self) -> Api:
        return Api(
            store=self._store,
            objects=self._mirror,
            catalogue=self._catalogue,
            services=self._services,
            keys=Keys(self._store, self._mirror, self._catalogue),
            key_use=self._key_use,
            logs=self._logs,
            streams=self._streams,
            analytics=self._analytics,
            site=self._site,
            vault=self._vault,
            rate=self._config.api_rate,
            metrics=self._exposition,
            unready=self._unready,
        )

    async def _exposition(self) -> tuple[bytes, str]:
        told = [*of_telling(self._streams, self._collector, self._activation.journal), *of_the_door(self._door)]
        told += [*of_pushes(self._hooks, self._branches), *of_analytics(self._analytics)]
        issuer, verifier = self._certification.issuer, self._certification.verifier
        told += [of_orders(issuer), *of_domains(verifier), *of_the_agent(self._activation.agent.faults)]
        gpus, failures = self._activation.gpu_utilization(), self._activation.meter.failures
        told += of_the_gpus(self._activation.catalog, gpus, failures)
        return await self._metrics.exposition(self._activation.catalog, issuer.left(), told)

    def _unready(self) -> list[str]:
        reasons = [] if self._mirror.connected else ["the store can't be reached"]
        if not (self._begun and self._serving):
            reasons.append("the node starts")
        if self._activation.evacuation.begun:
            reasons.append("the node stops")
        if self._collector.problem:
            reasons.append(f"logs are not kept: {self._collector.problem}")
        if self._activation.agent.faults["open"] and not self._activation.agent.adopted:
            reasons.append("what runs on this node can't be found: its log says why")
        return reasons


def _inherited(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
