"""`.dockerignore` means what Docker's documentation says of it."""

from __future__ import annotations

import pytest

from activator.drivers.container.dockerignore import ignored


@pytest.mark.parametrize(
    ("text", "out", "kept"),
    [
        ("# comment\n*/temp*\n*/*/temp*\ntemp?", ["some/temporary.txt", "a/b/temp", "tempa"], ["temp", "a/b/c/temp"]),
        ("*.md\n!README.md", ["notes.md"], ["README.md", "docs/notes.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md", "x.md"], ["README.md", "README-x.md"]),
        ("**/*.go", ["a.go", "a/b/c.go"], ["a.gox"]),
        ("node_modules\n/build/", ["node_modules/x/y.js", "node_modules", "build", "build/a"], ["src/node_modules"]),
        ("*\n!src", ["a", "b/c"], ["src", "src/a/b"]),
        ("docs/**/drafts", ["docs/drafts", "docs/a/b/drafts/x"], ["docs/a"]),
        ("x[0-9].txt\ny[^a].txt\n\\*star", ["x1.txt", "yb.txt", "*star"], ["xa.txt", "ya.txt", "astar"]),
        ("..\n../x\n.\n/\n!\n[z-a]", [], ["a", "x", "z"]),
        ("a.c", ["a.c"], ["abc"]),
        ("", [], ["a", ".dockerignore"]),
    ],
)
def test_the_last_line_that_matches_wins(text: str, out: list[str], kept: list[str]) -> None:
    is_ignored = ignored(text)
    assert [path for path in out if not is_ignored(path)] == []
    assert [path for path in kept if is_ignored(path)] == []


def test_a_hostile_file_takes_no_time() -> None:
    is_ignored = ignored("\n".join(["**/" * 40 + "*a" * 40 + "b"] * 300))
    assert not is_ignored("/".join(["a" * 200] * 6))
    assert ignored("\n".join(["!x"] * 300 + ["y"]))("y") is False
