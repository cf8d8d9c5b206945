"""What the documents say about the code, where a program can compare the two."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from gateway.access_log import AccessLog
from gateway.errors import Malformed
from gateway.refused import Refused
from gateway.sides import Downstream

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_the_access_log_has_its_fields_in_their_order() -> None:
    table = (DOCS / "operations.md").read_text().partition("### The access log")[2].partition("\n\n**")[0]
    out, end = os.pipe()
    log = AccessLog(end)
    log.add_refused(Refused(b"id", Downstream(), Malformed("no"), b"", 0, 0.0))
    log.close()
    os.close(end)
    with os.fdopen(out) as stream:
        told = json.loads(stream.read())
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(told)
