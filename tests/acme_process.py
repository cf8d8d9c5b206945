"""`tests.acme_proxy` as a process of its own, for tests that have no loop: `with ProxyProcess(pebble) as proxy`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.acme_faults import Fault
from tests.pebble import Pebble


class ProxyProcess:
    """`directory`: what clients ask. It starts at once; `close` ends it."""

    def __init__(self, pebble: Pebble) -> None:
        tls = pebble.minica
        files = {"--trust": tls.ca, "--certificate": tls.certificate, "--key": tls.key}
        arguments = [str(word) for pair in files.items() for word in pair]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.acme_proxy", "--upstream", pebble.url, *arguments],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        started = self._process.stdout.readline()
        assert started, "the proxy did not come up"
        told = json.loads(started)
        self.directory, self._control = str(told["directory"]), str(told["control"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def counts(self) -> dict[str, int]:
        """Requests by kind; without those whose nonce the server refused by itself."""
        return dict(self._ask("state")["counts"])

    def requests(self) -> list[dict[str, Any]]:
        """Fields of `tests.acme_proxy.Seen`, oldest first."""
        return list(self._ask("state")["requests"])

    def break_(self, *faults: Fault) -> None:
        self._ask("break", [dataclasses.asdict(fault) for fault in faults])

    def mend(self) -> None:
        self._ask("mend", {})

    def renewal(self, **values: Any) -> None:
        """`offered`, `share`, `retry_after`, `windows` ({identifier: [start, end]})."""
        self._ask("renewal", values)

    def meta(self, **values: Any) -> None:
        """Members of the directory's `meta`."""
        self._ask("meta", values)

    def _ask(self, what: str, values: object = None) -> Any:
        body = None if values is None else json.dumps(values).encode()
        with urllib.request.urlopen(f"{self._control}/{what}", body, timeout=10) as answer:
            return json.loads(answer.read() or b"null")
