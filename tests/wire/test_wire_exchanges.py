"""exchanges.toml: conversations in which the order matters, step by step."""

from __future__ import annotations

import re

import pytest
from corpus import HOST, ExchangeCase, exchanges
from pieces import turns
from readers import canonical
from wire import Conversation, Origin, Peer, Starter, until

_HEAD = re.compile(rb"(HTTP/1\.1 [0-9]{3} |[A-Z]+ [^ ]+ HTTP/1\.1\r\n)")
_END = re.compile(rb"\r\n\r\n|\{own( 1\.0)?\}\r\n")


class Stage:
    """One client, one replica, and the connection between the edge and the replica that is talked over now."""

    def __init__(self, talk: Conversation, origin: Origin, client: Peer) -> None:
        self.talk = talk
        self.origin = origin
        self.client = client
        self.replica: Peer | None = None

    async def step(self, actor: str, data: bytes) -> None:
        await getattr(self, actor)(data)
        await turns(5)

    async def client_sends(self, data: bytes) -> None:
        await self.client.send(data)

    async def client_sees(self, data: bytes) -> None:
        await sees(self.client, data)

    async def client_sees_nothing(self, _: bytes) -> None:
        await self.client.silent()

    async def client_half_closes(self, _: bytes) -> None:
        self.client.end()

    async def client_leaves(self, _: bytes) -> None:
        self.client.close()

    async def client_is_closed(self, _: bytes) -> None:
        assert await self.client.rest() == b""

    async def replica_sees(self, data: bytes) -> None:
        if self.replica is None:
            self.replica = await self.origin.peer()
        await sees(self.replica, data)

    async def replica_sees_nothing(self, _: bytes) -> None:
        if self.replica is not None:
            await self.replica.silent()
        else:
            await turns(50)
            assert self.origin.connections == 0

    async def replica_sends(self, data: bytes) -> None:
        assert self.replica is not None
        await self.replica.send(data)

    async def replica_closes(self, _: bytes) -> None:
        """What the edge sends next goes over another connection."""
        assert self.replica is not None
        self.replica.close()
        self.replica = None

    async def replica_half_closes(self, _: bytes) -> None:
        assert self.replica is not None
        self.replica.end()

    async def replica_is_closed(self, _: bytes) -> None:
        assert self.replica is not None
        await self.replica.closed()
        self.replica = None

    async def asleep(self, _: bytes) -> None:
        self.talk.serve(host=HOST)

    async def awake(self, _: bytes) -> None:
        self.talk.serve(self.origin.endpoint(), host=HOST)

    async def held(self, number: bytes) -> None:
        await until(lambda: self.talk.held == int(number))


async def sees(peer: Peer, data: bytes) -> None:
    """The next bytes at `peer` are these, a head in canonical form."""
    found = _END.search(data) if _HEAD.match(data) else None
    if found is not None:
        end = found.end()
        assert canonical(await peer.head()) == data[:end]
        data = data[end:]
    await peer.expect(data)


@pytest.mark.parametrize("case", exchanges(), ids=lambda case: case.name)
async def test_a_case(conversation: Starter, case: ExchangeCase) -> None:
    talk = await conversation(**case.settings)
    origin = await talk.origin()
    talk.serve(origin.endpoint(), host=HOST)
    stage = Stage(talk, origin, await talk.client())
    for actor, data in case.steps:
        await stage.step(actor, data)
