"""What the document on custom domains says of reasons and states."""

from __future__ import annotations

import re
from pathlib import Path

from certs.dns_answer import MOST_ALIASES
from certs.proof import REASONS
from certs.status import STATES

TEXT = (Path(__file__).parents[2] / "docs" / "domains.md").read_text()
ROWS = re.findall(
    r"^\| (`[a-z_`, ]+) \| ([^|]+) \| [^|]+ \| [^|]+ \|$", TEXT.partition("## What each state means")[2], re.MULTILINE
)


def test_each_reason_and_state_is_documented_with_what_to_do():
    states = {state for row in ROWS for state in re.findall(r"`(\w+)`", row[0])}
    reasons = {reason for row in ROWS for reason in re.findall(r"`(\w+)`", row[1])}
    assert set(STATES) == states
    assert set(REASONS) <= reasons


def test_the_length_of_chains_is_documented():
    assert f"over up to {MOST_ALIASES} aliases" in TEXT
