"""Names, labels, references and domains: what SPEC section 2 allows, and what git and the registries allow."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.domains import BadDomain, Platform, custom_domain
from control.services.names import fold, key_name_error, labels, namespace_error, service_name_error
from control.services.refs import branch_error, image_error, repo_error

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,63}", fullmatch=True)
NAMESPACES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,37}[a-z0-9])?", fullmatch=True)
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@given(NAMESPACES, NAMES)
def test_every_candidate_is_a_dns_label_and_they_differ(namespace, name):
    candidates = list(labels(namespace, name))
    assert len(set(candidates)) == len(candidates) >= 5
    assert all(DNS_LABEL.fullmatch(label) for label in candidates)


@given(NAMESPACES, NAMES)
def test_names_equal_after_folding_have_equal_labels(namespace, name):
    assert list(labels(namespace, name)) == list(labels(namespace, fold(name)))
    assert list(labels(namespace, name.upper())) == list(labels(namespace, name))


@given(NAMESPACES, NAMES)
def test_the_first_label_is_the_plain_one_unless_it_may_not_be(namespace, name):
    plain = f"{name}-{namespace}".lower().replace("_", "-")
    first = next(labels(namespace, name))
    digest = base64.b32encode(hashlib.sha256(f"{namespace}/{fold(name)}".encode()).digest()).decode().lower()[:6]
    if len(plain) <= 63 and plain[2:4] != "--" and not plain.startswith("-"):
        assert first == plain
    else:
        assert first == f"{plain.lstrip('-')[:56]}-{digest}"


@given(NAMESPACES)
def test_namespaces_of_the_spec_are_taken(namespace):
    assert namespace_error(namespace) in (None, "is reserved")


@pytest.mark.parametrize("namespace", ["", "-a", "a-", "A", "a_b", "a" * 40, "é", "a\n", "admin", "openapi.json", "*"])
def test_others_are_not(namespace):
    assert namespace_error(namespace)


@given(NAMES)
def test_service_names_of_the_spec_are_taken(name):
    assert service_name_error(name) is None


@pytest.mark.parametrize("name", ["", "a" * 64, "a.b", "a/b", "a b", "é", "a\n", "٣"])
def test_other_service_names_are_not(name):
    assert service_name_error(name)


@pytest.mark.parametrize(("name", "fine"), [("ci", True), ("a.b-c_d", True), ("$x", False), ("", False), (".a", False)])
def test_key_names(name, fine):
    assert (key_name_error(name) is None) == fine


@settings(max_examples=150)
@given(st.text("ab/.@{~^:?*[\\- \x00\x7flockHEADé", min_size=1, max_size=12).filter(lambda t: "\x00" not in t))
def test_branches_are_what_git_takes(branch):
    git = subprocess.run(["git", "check-ref-format", f"refs/heads/{branch}"], check=False).returncode == 0
    expected = git and not branch.startswith("-") and branch not in ("HEAD", "@")
    assert (branch_error(branch) is None) == expected, branch


@pytest.mark.parametrize("branch", ["main", "feature/x.y", "a@b", "releases/2024-01", "@x", "ü", "a.lockb"])
def test_usual_branches(branch):
    assert branch_error(branch) is None
    assert (
        subprocess.run(["git", "check-ref-format", "--branch", branch], capture_output=True, check=False).returncode
        == 0
    )


@pytest.mark.parametrize(
    "branch", ["", "a\0b", "a" * 1025, "x.lock", "a.lock/b", ".a", "a/.b", "a..b", "/a", "a/", "a."]
)
def test_wrong_branches(branch):
    assert branch_error(branch)


@pytest.mark.parametrize(
    ("repo", "fine"),
    [
        ("acme/api", True), ("A.b_c-d/x.git", True), ("a/..", False), ("./a", False), ("a", False), ("a/b/c", False),
        ("a/b c", False), ("/b", False), ("a/", False), ("", False), ("a/b\n", False), ("é/b", False),
    ],
)  # fmt: skip
def test_repositories(repo, fine):
    assert (repo_error(repo) is None) == fine


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "fine"),
    [
        ("nginx", True), ("nginx:1.27", True), ("library/nginx", True), ("ghcr.io/acme/api:v1", True),
        (f"localhost:5000/a/b@{DIGEST}", True), (f"a/b:tag@{DIGEST}", True), ("a__b/c-d", True), ("[::1]:5000/a", True),
        ("Nginx", False), ("nginx:", False), ("", False), ("a//b", False), ("a:b:c", False), ("a@sha256:abc", False),
        ("-a", False), ("a b", False), ("a/b:" + "t" * 129, False), ("a" * 256, False), ("http://a/b", False),
    ],
)  # fmt: skip
def test_images(image, fine):
    assert (image_error(image) is None) == fine


PLATFORM = Platform("apps.localhost", "api.example.com")


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("www.acme.com", "www.acme.com"),
        ("ACME.com.", "acme.com"),
        ("Bücher.example.de", "xn--bcher-kva.example.de"),
        ("a.b.c.acme.co.uk", "a.b.c.acme.co.uk"),
        ("日本語。jp", "xn--wgv71a119e.jp"),
    ],
)
def test_domains(text, domain):
    assert custom_domain(text, PLATFORM) == domain


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "com", "localhost", "co.uk", "github.io", "1.2.3.4", "1.2.3", "[::1]", "::1", "*.acme.com",
        "acme.com:80", "a..com", "-a.com", "a-.com", "a_b.com", "a" * 64 + ".com", ".".join(["a" * 60] * 5) + ".com",
        "a b.com", "apps.localhost", "x.apps.localhost", "api.example.com", "http://acme.com", "acme.com/", "xn--a.com",
        "a.com\n",
    ],
)  # fmt: skip
def test_other_domains_are_refused(text):
    with pytest.raises(BadDomain):
        custom_domain(text, PLATFORM)
