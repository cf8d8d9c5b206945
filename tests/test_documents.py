"""What the documents say about the code, where a program can compare the two."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from gateway.access_log import AccessLog
from gateway.errors import Malformed
from gateway.refused import Refused
from gateway.sides import Downstream

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])


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


def anchors(page: Path) -> set[str]:
    """Of its headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_are_there(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []
