"""Sealed values open only with their key and in their place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from state.secret_key import (
    CERTIFICATES,
    ENVIRONMENT,
    DerivedKey,
    SecretError,
    derive,
    fingerprint,
    make_secret_key,
    read_secret_key,
)
from state.secrets import Vault, sealed_size

KEY = bytes(range(32))


@given(st.text())
def test_what_is_sealed_opens(text: str) -> None:
    vault = Vault(derive(KEY, ENVIRONMENT))
    sealed = vault.seal("acme", "svc", "TOKEN", text)
    assert vault.unseal("acme", "svc", "TOKEN", sealed) == text


@given(st.text())
def test_its_length_tells_how_much_is_sealed(text: str) -> None:
    assert sealed_size(Vault(derive(KEY, ENVIRONMENT)).seal("acme", "svc", "TOKEN", text)) == len(text.encode())


@pytest.mark.parametrize("damaged", ["", "x", "x.", "x.=", "x.AAAA", "."])
def test_what_is_no_sealed_value_has_no_size(damaged: str) -> None:
    assert sealed_size(damaged) == 0


@pytest.mark.parametrize(
    "place", [("evil", "svc", "TOKEN"), ("acme", "other", "TOKEN"), ("acme", "svc", "X"), ("acmes", "vc", "TOKEN")]
)
def test_a_value_can_not_be_moved(place: tuple[str, str, str]) -> None:
    vault = Vault(derive(KEY, ENVIRONMENT))
    sealed = vault.seal("acme", "svc", "TOKEN", "secret")
    with pytest.raises(SecretError):
        vault.unseal(*place, sealed)


def test_purposes_and_keys_are_apart() -> None:
    sealed = Vault(derive(KEY, ENVIRONMENT)).seal("a", "b", "c", "secret")
    with pytest.raises(SecretError, match="another place"):
        Vault(derive(KEY, CERTIFICATES)).unseal("a", "b", "c", sealed)
    with pytest.raises(SecretError, match="sealed with key"):
        Vault(derive(bytes(32), ENVIRONMENT)).unseal("a", "b", "c", sealed)


def test_keys_are_derived_as_hkdf_says() -> None:
    for purpose in (ENVIRONMENT, CERTIFICATES):
        expected = HKDF(SHA256(), 32, salt=None, info=f"wakegate {purpose}".encode()).derive(KEY)
        assert derive(KEY, purpose).key == expected


def test_a_derived_key_travels_as_json_and_is_not_shown() -> None:
    key = derive(KEY, CERTIFICATES)
    assert DerivedKey.from_json(json.loads(json.dumps(key.to_json()))) == key
    assert "fingerprint" not in repr(key)
    assert repr(key.key) not in repr(key)


def test_the_key_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    make_secret_key(path)
    key = read_secret_key(path)
    make_secret_key(path)
    assert read_secret_key(path) == key
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert len(fingerprint(key)) == 16


@pytest.mark.parametrize("content", ["", "short", "AAAA", "not base64 !"])
def test_a_malformed_key_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "k").write_text(content)
    with pytest.raises(SecretError, match="k: "):
        read_secret_key(tmp_path / "k")
