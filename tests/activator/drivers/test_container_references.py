"""Names of images: taken apart, pinned to a digest, and the names under which a node keeps its own."""

from __future__ import annotations

import pytest

from activator.drivers.container.references import Reference, Shelf, is_digest

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "name", "wanted", "registry"),
    [
        ("nginx", "nginx", "latest", "docker.io"),
        ("nginx:1.27", "nginx", "1.27", "docker.io"),
        ("acme/app", "acme/app", "latest", "docker.io"),
        ("ghcr.io/acme/app:v1", "ghcr.io/acme/app", "v1", "ghcr.io"),
        ("registry:5000/app", "registry:5000/app", "latest", "registry:5000"),
        (f"ghcr.io/acme/app:v1@{DIGEST}", "ghcr.io/acme/app", DIGEST, "ghcr.io"),
        ("localhost/app:dev", "localhost/app", "dev", "localhost"),
        ("localhost:5000/app", "localhost:5000/app", "latest", "localhost:5000"),
    ],
)
def test_the_parts_of_a_reference(text: str, name: str, wanted: str, registry: str) -> None:
    reference = Reference.of(text)
    assert (reference.name, reference.wanted, reference.registry) == (name, wanted, registry)
    assert str(reference) == text
    assert reference.local is (registry == "localhost")


def test_a_digest_is_that_of_the_image_s_own_repository() -> None:
    other = "sha256:" + "b" * 64
    assert Reference.of("nginx:1").digest_among([f"ghcr.io/x@{other}", f"docker.io/library/nginx@{DIGEST}"]) == DIGEST
    assert Reference.of("docker.io/acme/app").digest_among([f"acme/app@{DIGEST}"]) == DIGEST
    assert Reference.of("nginx").digest_among([f"ghcr.io/x@{other}"]) == other
    assert Reference.of("nginx").digest_among([]) is None
    assert str(Reference.of("ghcr.io/a:v1").at(DIGEST)) == f"ghcr.io/a@{DIGEST}"


def test_what_a_digest_is() -> None:
    assert is_digest(DIGEST)
    assert not is_digest("sha256:abc")
    assert not is_digest("a" * 40)


def test_the_shelf_finds_its_own_and_nobody_else_s() -> None:
    shelf = Shelf("0123456789abcdef")
    name = shelf.name("acme", "svc1", DIGEST)
    assert name == f"localhost/wakegate-0123456789abcdef/acme/svc1:{'a' * 32}"
    assert shelf.owner(name) == ("acme", "svc1")
    assert Shelf("fedcba9876543210").owner(name) is None
    for other in ("localhost/app:1", "docker.io/library/nginx:1", shelf.prefix + "acme", shelf.prefix + "a/b/c:1"):
        assert shelf.owner(other) is None
