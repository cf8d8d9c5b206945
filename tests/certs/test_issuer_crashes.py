"""An order that is cut off at any of its awaits goes on: one order more at most, and no key in the clear."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from certs import issuer_account, issuer_order, issuer_proofs, issuer_records
from certs.acme.challenge import HTTP_01
from certs.due import Work
from certs.issuer import Issuer
from certs.wanted import Wanted
from state.kinds import Kind
from state.store import Change, Store
from tests.certs.issuing import World, until

MODULES = (issuer_order, issuer_account, issuer_proofs, issuer_records)
# Functions that a plain order has no use for: what follows a refusal, TXT records, a claim that changed meanwhile.
ELSEWHERE = {
    *("_failed", "_hide", "_known", "_why_invalid", "forgotten", "_refused", "_claimed_anew"),
    *("show", "hide", "_seen"),
}

RARELY = (
    *("dropped(self._issuance)", "self._hide(", "new_order(names, profile=profile)", "self._why_invalid("),
    *("txt.show(", "closed for good", "was closed", "self._known("),
)

Place = tuple[str, int]  # of a module, a line


def awaits() -> set[Place]:
    """Every await of an order in the code, by its first line."""
    found = set()
    for module in MODULES:
        source = inspect.getsource(module)
        tree, lines = ast.parse(source), source.splitlines()
        for function in ast.walk(tree):
            if isinstance(function, ast.AsyncFunctionDef) and function.name not in ELSEWHERE:
                found |= {(module.__name__, node.lineno) for node in plain(function) if isinstance(node, ast.Await)}
        rare = {number for number, line in enumerate(lines, start=1) if any(text in line for text in RARELY)}
        found -= {(module.__name__, number) for number in rare}
    return found


def plain(node: ast.AST) -> Iterator[ast.AST]:
    """All below it that runs without an exception."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ExceptHandler):
            yield child
            yield from plain(child)


def places(work: Coroutine[Any, Any, Any]) -> list[Place]:
    """Where in our modules it waits, the innermost last."""
    names = {module.__file__: module.__name__ for module in MODULES}
    found, inner = [], work
    while (frame := getattr(inner, "cr_frame", None)) is not None:
        if frame.f_code.co_filename in names:
            found.append((names[frame.f_code.co_filename], frame.f_lineno))
        inner = getattr(inner, "cr_await", None)
    return found


class Cut:
    """Awaits `work` until it waits at a place that `here` says, and then never again: as if it was killed there."""

    def __init__(self, work: Coroutine[Any, Any, Any], here: Callable[[list[Place]], bool]) -> None:
        self._work = work
        self._here = here
        self.done = asyncio.Event()

    def __await__(self) -> Generator[Any, Any, Any]:
        step = lambda: self._work.send(None)  # noqa: E731
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            if self._here(places(self._work)):
                with contextlib.suppress(asyncio.CancelledError):
                    self._work.throw(asyncio.CancelledError())
                yield from asyncio.get_running_loop().create_future()
            try:
                yield waits_for
                step = lambda: self._work.send(None)  # noqa: E731
            except BaseException as error:
                step = lambda error=error: self._work.throw(error)  # noqa: E731


@pytest.mark.timeout(900)
async def test_killed_at_every_await(ca: World, monkeypatch: pytest.MonkeyPatch, valkey: Any) -> None:
    attempt = Issuer._attempt
    waits, cut_at, cut = set[Place](), set[Place](), asyncio.Event()

    def here(found: list[Place]) -> bool:
        waits.update(found)
        if cut_at.isdisjoint(found):
            return False
        cut.set()
        return True

    async def watched(duty: Issuer, wanted: Wanted, work: Work, asked: bool) -> None:
        doing = attempt(duty, wanted, work, asked)
        await (Cut(doing, here) if work is Work.ORDER else doing)

    monkeypatch.setattr(Issuer, "_attempt", watched)
    await order(ca, "0.acme.test")
    done = set[Place]()
    while left := sorted(waits - done):
        place = left[0]
        name, before = f"{len(done) + 1}.acme.test", ca.orders
        await forget_account(ca.store, ca.proxy.directory)
        cut_at.add(place)
        done.add(place)
        cut.clear()
        async with ca.control("one", reach=(HTTP_01,)).running() as control:
            await ca.hold(name)
            await until(lambda control=control, name=name: cut.is_set() or control.certificate(name))
        nothing_in_the_clear(valkey.directory)
        cut_at.clear()
        await order(ca, name)
        assert ca.orders - before <= 2, place
    missed = awaits() - waits
    assert sorted(missed) == [], "awaits that no order came by"


async def order(ca: World, name: str) -> None:
    async with ca.control("two", reach=(HTTP_01,)).running() as control:
        await ca.hold(name)
        await control.served(name)
        await until(lambda: not control.duty.busy)
        issuance = control.issuance(name)
        assert issuance is not None
        assert (issuance.order, issuance.key, issuance.began_at) == (None, None, None)
        assert await ca.store.get(Kind.CHALLENGE, name) is None


async def forget_account(store: Store, directory: str) -> None:
    await store.commit([Change(Kind.ACCOUNT, directory, None)])


def nothing_in_the_clear(directory: Path) -> None:
    files = [file for file in directory.rglob("*") if file.is_file()]
    assert files
    assert not any(b"PRIVATE KEY" in file.read_bytes() for file in files)
