"""The resolver and the scripted server in one process and without sockets: bytes in, bytes out."""

from __future__ import annotations

import dns.message

from certs.dns import Resolver
from certs.dns_answer import Answer, Outcome, read
from tests.dns_responder import Answering


class WiredResolver(Resolver):
    """`asked`: each query, in order."""

    def __init__(self, script: Answering) -> None:
        super().__init__([])
        self.asked: list[tuple[str, str]] = []
        self._script = script

    async def query(self, name: str, kind: str) -> Answer:
        self.asked.append((name, kind))
        fault = self._script.fault(name, kind)
        if fault is not None:
            outcome = {"drop": Outcome.TIMEOUT, "servfail": Outcome.FAILED, "refused": Outcome.REFUSED}[fault.kind]
            return Answer(outcome, detail="it fails")
        query = dns.message.make_query(name, kind)
        return read(self._script.response(query).to_wire(max_size=65535), query)
