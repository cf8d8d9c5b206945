"""Following a stream of the API: server-sent events, resumed where they broke off.

Laws kept here: over broken connections nothing is missed or seen twice (`Last-Event-ID`); an API that is gone is waited
for, one that refuses is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wakegate.client import Broken, Client, ClientError, Failed

_PAUSE: Final = 0.1  # seconds before the connection is made again; doubles until an event comes
_LONGEST_PAUSE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Message:
    """One dispatched event: its type, its data, and the last id that the stream gave so far."""

    kind: str
    data: str
    last_id: str | None


@dataclass(slots=True)
class _Parser:
    """The lines of one connection, as the HTML Living Standard (9.2.6) reads them."""

    last_id: str | None
    kind: str = ""
    data: list[str] | None = None

    def feed(self, line: str) -> Message | None:
        """A line without its end; the message that it completes."""
        if not line:
            return self._dispatched()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self.data = [*(self.data or ()), value]
        elif name == "event":
            self.kind = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        return None

    def _dispatched(self) -> Message | None:
        kind, data, self.kind, self.data = self.kind, self.data, "", None
        return None if data is None else Message(kind or "message", "\n".join(data), self.last_id)


def messages(lines: Iterable[bytes], last_id: str | None = None) -> Iterator[Message]:
    """The events of a stream's lines. One that the end of the stream cut short does not count."""
    parser = _Parser(last_id)
    for line in lines:
        if not line.endswith(b"\n"):
            return
        if message := parser.feed(line.decode("utf-8", "replace").rstrip("\r\n")):
            yield message


def follow(
    client: Client, path: Sequence[str], query: Mapping[str, Any], notice: Callable[[str], None]
) -> Iterator[Message]:
    """Every item from now on, until what is followed is gone; `notice` is told of that, of gaps and of outages.

    Raises ClientError, Failed: where it can't begin, or once the API refuses.
    """
    last_id: str | None = None
    began, outage, attempt = False, False, 0
    while True:
        try:
            with client.stream(*path, query={**query, "follow": "true"}, last_event_id=last_id) as response:
                if outage:
                    notice("connected again")
                began, outage = True, False
                for message in messages(response, last_id):
                    last_id, attempt = message.last_id, 0
                    if message.kind == "message":
                        yield message
                    else:  # `gap`: something is missing; `end`: it is gone
                        notice(_reason(message))
                    if message.kind == "end":
                        return
        except (Failed, Broken) as error:
            if began and isinstance(error, Failed) and error.status == 404:
                notice("it was deleted")
                return
            if not began or (isinstance(error, Failed) and not error.passing):
                raise
            if attempt and not outage:
                notice(f"the connection is lost, trying again: {_why(error)}")
                outage = True
        time.sleep(min(_PAUSE * 2.0**attempt, _LONGEST_PAUSE))
        attempt += 1


def _reason(message: Message) -> str:
    """The words of an event about the stream itself."""
    try:
        return str(json.loads(message.data)["reason"])
    except (ValueError, LookupError, TypeError):
        return message.kind


def _why(error: ClientError | Failed) -> str:
    return error.lines()[0] if isinstance(error, Failed) else str(error)
