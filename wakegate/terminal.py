"""What others wrote, on its way to a terminal, a pipe or the journal: log lines, reasons, names, messages of servers.

Law kept here: nobody but us moves the cursor, sets a title, turns text around or begins a line. Control characters
(C0 but the tab, DEL, C1), bidirectional and line-separating ones and lone surrogates are written as they would be in
source code: `\\x1b`, `\\n`, `\\u202e`.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from codecs import unicode_escape_encode
from types import TracebackType
from typing import Final

_BEYOND_ASCII: Final = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSEEN: Final = re.compile(rf"[\x00-\x08\x0a-\x1f{_BEYOND_ASCII}]")
_UNSEEN_IN_JSON: Final = re.compile(rf"[{_BEYOND_ASCII}]")


def visible(text: str) -> str:
    """The text in one line that does nothing."""
    return _UNSEEN.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """The same for a text of ours that has several lines."""
    return "\n".join(map(visible, text.split("\n")))


def visible_json(text: str) -> str:
    """The same JSON value: what JSON allows in a string and a terminal obeys becomes `\\uXXXX`."""
    return _UNSEEN_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escaped(match: re.Match[str]) -> str:
    """Without a look for the codec by its name: none is found any more where the interpreter's end is told of."""
    return unicode_escape_encode(match[0])[0].decode()


class Formatter(logging.Formatter):
    """One visible line per record; a traceback follows indented, so that no line of it looks like a record."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [visible(self.formatMessage(self._prepared(record)))]
        if record.exc_info:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)

    def _prepared(self, record: logging.LogRecord) -> logging.LogRecord:
        record.message = record.getMessage()
        return record


def log_to_stderr(process: str) -> None:
    """Records, and what ends this process, go to the standard error visibly; `process` begins each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(f"{process}: %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = _write_traceback


def _write_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(visible_lines(text.rstrip("\n")) + "\n")


def _indented(text: str) -> list[str]:
    return [f"  {visible(line)}" for line in text.rstrip("\n").split("\n")]
