"""What was once found stays found: seeds and saved inputs pass here, and each planted bug still shows. No atheris."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import memory_plane
import mutants
import mutation
import program
import pytest
import targets

HERE = Path(__file__).resolve().parent
REPRODUCERS = sorted((HERE / "reproducers").glob("*/*"))
PATCHES = mutants.patches()


@pytest.fixture
def staged() -> Iterator[None]:
    with memory_plane.staged():
        yield


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_pass(name: str, staged: None) -> None:
    function, seeds = targets.TARGETS[name]
    for seed in seeds:
        function(seed)


@pytest.mark.parametrize("path", REPRODUCERS, ids=lambda path: path.name)
def test_what_was_found_is_mended(path: Path, staged: None) -> None:
    targets.TARGETS[path.parent.name][0](path.read_bytes())


@pytest.mark.parametrize("path", sorted((HERE / "mutants").glob("*.input-*")), ids=lambda path: path.stem)
def test_what_shows_a_planted_bug_passes_without_it(path: Path, staged: None) -> None:
    targets.TARGETS[mutants.shown_by(path)][0](path.read_bytes())


def test_changed_programs_are_programs(staged: None) -> None:
    _, seeds = targets.TARGETS["plane"]
    mutator = mutation.Mutator(seeds, lambda data, limit: data[:limit])
    data = seeds[0]
    for seed in range(200):
        data = mutator(data, 400, seed)
        assert len(data) <= 400
        program.play(data)
        assert isinstance(program.decode(data), str)


def test_programs_are_written_with_pieces() -> None:
    text = "c GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
    encoded = program.encode(text, "w \x01")
    assert len(encoded) < 8
    assert repr(text[2:]) in program.decode(encoded)


def test_there_are_ten_planted_bugs_at_least() -> None:
    assert len(PATCHES) >= 10
    assert len({mutants.title(patch) for patch in PATCHES}) == len(PATCHES)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_planted_bugs_can_be_planted(patch: Path) -> None:
    mutants.apply(patch, mutants.TREE, "--check")


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_planted_bugs_show(patch: Path, tmp_path: Path) -> None:
    """The oracles see the bug with the input that once found it."""
    inputs = sorted(patch.parent.glob(f"{patch.stem}.input-*"))
    assert inputs, "run `tests/fuzz/mutants.py --keep` and save what found it"
    mutants.copy_tree(tmp_path, patch)
    for path in inputs:
        command = [sys.executable, "tests/fuzz/fuzz.py", mutants.shown_by(path), "--replay", str(path), "--brief"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1, done.stdout + done.stderr
