"""The duty that orders certificates, in processes that kill themselves at a given await: `python -m
tests.certs.issuing_process`.

A first process loads everything once and forks one for each line of its standard input, `{"kill_at": [module, line] or
null}`; it answers with the pid, and, when that process has ended, with its status. Awaits are found by rewriting the
modules of an order as they are loaded: before each of them, the place is noted in a file or the process is killed.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import ssl
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

MODULES = tuple(f"certs.{name}" for name in ("issuer_order", "issuer_account", "issuer_proofs", "issuer_records"))


class Points:
    """`kill_at`: where this process ends. `noted`: the file that gets the others."""

    def __init__(self) -> None:
        self.kill_at: tuple[str, int] | None = None
        self.noted: Path | None = None

    async def passing(self, module: str, line: int, work: Awaitable[T]) -> T:
        if self.kill_at == (module, line):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.noted is not None:
            with self.noted.open("a") as file:
                file.write(f"{module} {line}\n")
        return await work


POINTS = Points()


class _Rewriter(ast.NodeTransformer):
    """`await x` becomes `await _passing(module, line, x)`."""

    def __init__(self, module: str) -> None:
        self._module = module

    def visit_Await(self, node: ast.Await) -> ast.AST:
        self.generic_visit(node)
        place = [ast.Constant(self._module), ast.Constant(node.lineno)]
        call = ast.Call(ast.Name("_passing", ast.Load()), [*place, node.value], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Await(ast.copy_location(call, node)), node))


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        tree = _Rewriter(fullname).visit(ast.parse(source))
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_passing"] = POINTS.passing
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MODULES:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert found is not None
        assert found.origin is not None
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=_Loader(fullname, found.origin))


async def _run(arguments: argparse.Namespace) -> None:
    import aiohttp

    from state.store import Store
    from tests.certs.issuing import Control, Options

    trust = ssl.create_default_context(cafile=arguments.trust)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:

        async def acknowledged(revision: int, timeout: float) -> bool:
            """Once the node that answers the CA knows of it."""
            async with asyncio.timeout(timeout):
                while True:
                    async with session.get(f"http://127.0.0.1:{arguments.edge}/revision") as answer:
                        if int(await answer.text()) >= revision:
                            return True
                    await asyncio.sleep(0.01)

        store = Store(arguments.store)
        control = Control(store, arguments.directory, acknowledged, session, "one", Options(reach=("http-01",)))
        async with control.running():
            await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("store", "directory", "trust", "edge", "noted"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    sys.meta_path.insert(0, _Finder())
    import tests.certs.issuing  # noqa: F401 - once, for all that are forked

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            kill_at = json.loads(line)["kill_at"]
            POINTS.kill_at = None if kill_at is None else (kill_at[0], kill_at[1])
            POINTS.noted = Path(arguments.noted)
            asyncio.run(_run(arguments))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
