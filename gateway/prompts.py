"""How the prompt of a language model's request begins, read from the first bytes of its JSON body. Pure.

What a replica's cache can use again is a common beginning: the instructions that all requests of an application
share, then the conversation, which each of its requests repeats and continues. So the beginning is taken as far as the
first message of the user: it tells conversations apart, and is the same in each of their requests. Of a prompt that is
one text it is that text. Both up to `_LONGEST` bytes, within the first `BOUND` bytes of the body; what is behind is not
waited for.

The bytes are compared as they are, not as JSON: a client writes the same message in the same way each time. They are
read in one pass of a tokenizer, and of no more than `_TOKENS`, so that a body made of brackets costs little more than
a millisecond, not 80; what has come by then counts. Nothing is validated, that is the replica's to do.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from gateway.messages import Request

BOUND: Final = 64 * 1024  # bytes of a body that are looked at
_LONGEST: Final = 32 * 1024  # bytes of a prompt
_TOKENS: Final = 1000  # of the JSON up to its end

# The APIs of OpenAI, Anthropic and Ollama, and those of vLLM, SGLang, TGI and llama.cpp.
_PATHS: Final = (
    b"/chat/completions",
    b"/completions",
    b"/responses",
    b"/messages",
    b"/api/chat",
    b"/api/generate",
    b"/generate",
    b"/generate_stream",
    b"/completion",
)
_PROMPTS: Final = frozenset({b'"messages"', b'"prompt"', b'"input"', b'"inputs"', b'"text"'})
_BLANK: Final = re.compile(rb"[\s,:]*+")
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]|[^\s\[\]{},:"]++', re.DOTALL)
_OPENING: Final = (b"{", b"[")
_CLOSING: Final = (b"}", b"]")


class Incomplete(Exception):
    """The beginning is not all there."""


class _TooMany(Exception):
    """Tokens: this is as far as anybody looks."""


def asks(request: Request) -> bool:
    """Whether this is a request to a language model with a prompt that comes by itself."""
    if request.method != b"POST" or request.length == 0 or request.expects_continue:
        return False
    if not request.target.partition(b"?")[0].endswith(_PATHS):
        return False
    return any(line[:13].lower() == b"content-type:" and line.find(b"json", 13) > 0 for line in request.lines)


def key(body: bytes, whole: bool) -> int:
    """The beginning as a number of 64 bits, never 0; 0: there is none in `body`, its first bytes (`whole`: all of it).

    Raises Incomplete: more of the body is needed to know.
    """
    body = body[:BOUND]
    reader = _Reader(body)
    start = -1
    try:
        start = reader.prompt()
        end = reader.beginning() if start >= 0 else -1
    except _TooMany:
        end = reader.at
    except Incomplete:
        enough = whole or len(body) == BOUND or (start >= 0 and len(body) - start >= _LONGEST)
        if not enough:
            raise
        end = len(body)
    if start < 0:
        return 0
    digest = hashlib.blake2b(body[start : min(end, start + _LONGEST)], digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


class _Reader:
    """Tokens of JSON, from `at` on. All that it does raises Incomplete or _TooMany."""

    __slots__ = ("_left", "at", "body")

    def __init__(self, body: bytes) -> None:
        self.at = 0
        self.body = body
        self._left = _TOKENS

    def prompt(self) -> int:
        """Go to the value of the first member that is a prompt; where it is, -1 if there is none."""
        if self._next() != b"{":
            return -1
        while True:
            name = self._next()
            if not name.startswith(b'"'):
                return -1
            self._skip_blank()
            if name in _PROMPTS:
                return self.at
            self._skip(self._next())

    def beginning(self) -> int:
        """Read the prompt that is next as far as the user's first message, or the first of several texts; its end."""
        token = self._next()
        if token != b"[":
            self._skip(token)
            return self.at
        while (token := self._next()) != b"]":
            if token == b"{":
                if self._is_users():
                    break
            elif token == b"[" or token.startswith(b'"'):
                self._skip(token)
                break
        return self.at

    def _is_users(self) -> bool:
        """Read the rest of an object: is the user's the role in it?"""
        depth, role, users = 1, False, False
        while depth:
            token = self._next()
            if token in _OPENING:
                depth += 1
            elif token in _CLOSING:
                depth -= 1
            elif depth == 1:
                users = users or (role and token == b'"user"')
                role = token == b'"role"'
        return users

    def _skip(self, token: bytes) -> None:
        """Read the rest of a value that begins with `token`."""
        depth = 1 if token in _OPENING else 0
        while depth:
            token = self._next()
            if token in _OPENING:
                depth += 1
            elif token in _CLOSING:
                depth -= 1

    def _skip_blank(self) -> None:
        found = _BLANK.match(self.body, self.at)
        self.at = found.end() if found is not None else self.at
        if self.at == len(self.body):
            raise Incomplete

    def _next(self) -> bytes:
        if self._left == 0:
            raise _TooMany
        self._left -= 1
        self._skip_blank()
        found = _TOKEN.match(self.body, self.at)
        if found is None:  # a text that is not closed
            raise Incomplete
        self.at = found.end()
        return found[0]
