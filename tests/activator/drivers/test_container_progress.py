"""A pull's progress as lines: changes at once, growth now and then."""

from __future__ import annotations

from activator.drivers.container.progress import Progress


def test_a_layer_tells_its_changes_and_its_growth_now_and_then() -> None:
    progress = Progress()
    half = {"id": "abc", "status": "Downloading", "progressDetail": {"current": 1_500_000, "total": 3_000_000}}
    assert progress.feed({"status": "Pulling from library/nginx", "id": "1.27"}, 0) == [
        "1.27: Pulling from library/nginx"
    ]
    assert progress.feed({"id": "abc", "status": "Pulling fs layer", "progressDetail": {}}, 0) == [
        "abc: Pulling fs layer"
    ]
    assert progress.feed(half, 10) == ["abc: Downloading 1.5 of 3.0 MB"]
    assert progress.feed(half, 11) == []
    assert progress.feed(half, 12.5) == ["abc: Downloading 1.5 of 3.0 MB"]
    assert progress.feed({"id": "abc", "status": "Pull complete"}, 12.6) == ["abc: Pull complete"]
    assert progress.feed({"id": "abc", "status": "Pull complete"}, 20) == []


def test_a_thousand_layers_that_grow_make_no_flood() -> None:
    progress = Progress()
    lines = [
        line
        for moment in range(100)
        for layer in range(50)
        for line in progress.feed({"id": str(layer), "status": "Downloading"}, moment / 10)
    ]
    assert len(lines) <= 6


def test_the_digest_is_remembered_and_output_comes_in_whole_lines() -> None:
    progress = Progress()
    assert progress.feed({"status": "Digest: sha256:abc"}, 0) == ["Digest: sha256:abc"]
    assert progress.digest == "sha256:abc"
    assert progress.feed({"stream": "Step 1/2 : FROM"}, 0) == []
    assert progress.feed({"stream": " scratch\n ---> "}, 0) == ["Step 1/2 : FROM scratch"]
    assert progress.end() == [" ---> "]
    assert progress.feed({"aux": {"ID": "sha256:1"}}, 0) == []
