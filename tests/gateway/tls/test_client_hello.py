"""The ClientHello reader: whole, split and fragmented at any byte, bounded, and never taken in by what isn't one."""

from __future__ import annotations

import contextlib
import ssl
import struct
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tls_parties import client_hello

from gateway.tls.alerts import Refusal
from gateway.tls.client_hello import LIMIT, ClientHello, HelloReader, checked_name


def read(data: bytes) -> ClientHello | None:
    return HelloReader().feed(data)


def alert_of(data: bytes) -> int:
    with pytest.raises(Refusal) as caught:
        read(data)
    return caught.value.alert


def outcome(data: bytes) -> int:
    """The alert, 0 if there is none."""
    try:
        read(data)
    except Refusal as refusal:
        return refusal.alert
    return 0


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, data)


def sni(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes((kind,)) + vector(2, name) for name in names)))


def body(extensions: bytes | None, version: int = 0x0303, session: bytes = b"") -> bytes:
    fixed = struct.pack("!H", version) + bytes(32) + vector(1, session) + vector(2, b"\x13\x01") + vector(1, b"\0")
    return fixed if extensions is None else fixed + vector(2, extensions)


def message(body: bytes) -> bytes:
    return b"\x01" + vector(3, body)


def records(data: bytes, size: int = 16384, version: int = 0x0301) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(struct.pack("!BH", 22, version) + vector(2, piece) for piece in pieces)


def hello(extensions: bytes | None, **more: object) -> bytes:
    return records(message(body(extensions, **more)))  # type: ignore[arg-type]


def real(protocols: list[str], newest: ssl.TLSVersion) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if protocols:
        context.set_alpn_protocols(protocols)
    return client_hello("App.Test", context)


REAL = [real(protocols, newest) for protocols in ([], ["h2", "http/1.1"]) for newest in list(ssl.TLSVersion)[-2:]]


@pytest.mark.parametrize("data", REAL, ids=range(len(REAL)))
def test_real_hellos_split_at_every_byte(data: bytes) -> None:
    whole = read(data)
    assert whole is not None
    assert whole.server_name == "app.test"
    assert whole.protocols in ([], [b"h2", b"http/1.1"])
    assert max(whole.versions) in (0x0303, 0x0304)
    for cut in range(1, len(data)):
        reader = HelloReader()
        assert reader.feed(data[:cut]) is None
        assert repr(reader.feed(data[cut:])) == repr(whole)
        assert bytes(reader.data) == data
    reader = HelloReader()
    for at in range(len(data) - 1):
        assert reader.feed(data[at : at + 1]) is None
    assert repr(reader.feed(data[-1:])) == repr(whole)


@pytest.mark.parametrize("data", REAL, ids=range(len(REAL)))
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100])
def test_real_hellos_fragmented_over_records(data: bytes, size: int) -> None:
    whole = read(data)
    again = records(data[5:], size)
    assert repr(read(again)) == repr(whole)
    assert repr(read(again + b"more")) == repr(whole)
    assert read(again[:-1]) is None


@given(st.sampled_from(REAL), st.integers(1, 500), st.lists(st.integers(1, 200), max_size=20))
def test_any_fragments_and_any_splits(data: bytes, size: int, splits: list[int]) -> None:
    whole = read(data)
    again = records(data[5:], size)
    reader = HelloReader()
    found = None
    at = 0
    for length in [*splits, len(again)]:
        if at >= len(again):
            break
        assert found is None
        found = reader.feed(again[at : at + length])
        at += length
    assert repr(found) == repr(whole)


@given(st.binary(max_size=600))
@example(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
def test_bytes_without_sense_are_refused_or_awaited(data: bytes) -> None:
    assert outcome(data) in (0, 10, 22, 47, 50, 70)


@given(st.sampled_from(REAL), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=400)
def test_a_byte_changed_never_raises_anything_else(data: bytes, at: int, value: int) -> None:
    changed = bytearray(data)
    changed[at % len(data)] = value
    try:
        found = read(bytes(changed))
    except Refusal:
        return
    assert found is None or found.server_name == checked_name(found.server_name.encode())


@given(st.binary(max_size=300))
def test_any_body_of_a_hello(data: bytes) -> None:
    assert outcome(records(message(data))) in (0, 47, 50)


def test_without_extensions() -> None:
    found = read(hello(None))
    assert found is not None
    assert (found.server_name, found.protocols, found.versions) == ("", [], [0x0303])


def test_unknown_kinds_of_names_are_skipped() -> None:
    names = b"\x07" + vector(2, b"whatever") + b"\x00" + vector(2, b"a.test")
    found = read(hello(extension(0, vector(2, names))))
    assert found is not None
    assert found.server_name == "a.test"


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        (b"APP.Test", "app.test"),
        (b"app.test.", "app.test"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"_dmarc.example", "_dmarc.example"),
        (b"localhost", "localhost"),
        (b"127.0.0.1", ""),
        (b"::1", ""),
        (b"a..b", ""),
        (b".", ""),
        (b"a b", ""),
        (b"a\0.test", ""),
        (b"*.test", ""),
        ("bücher.example".encode(), ""),
        (b"a" * 63 + b".test", "a" * 63 + ".test"),
        (b"a" * 64 + b".test", ""),
        (b".".join([b"a" * 49] * 6), ""),
        (b"app.test/../x", ""),
    ],
)
def test_names(name: bytes, known_as: str) -> None:
    found = read(hello(sni(name)))
    assert found is not None
    assert found.server_name == known_as


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x28", 10),  # an alert
        (b"\x17\x03\x03\x00\x01x", 10),  # application data
        (b"\0", 10),
        (b"\r\n\r\n\0\r\nQUIT\n", 10),
        (b"\x80\x2e\x01\x00\x02", 70),  # an SSL 2.0 hello
        (b"\x16\x02\x00", 70),
        (b"\x16\x03\x01\x40\x01", 22),
        (b"\x16\x03\x01\x00\x00", 50),
        (records(b"\x02\0\0\0"), 10),  # a ServerHello
        (records(b"\x01\x01\x00\x00"), 50),  # 64 KiB and more
        (records(message(b"")), 50),
        (hello(None, session=bytes(33)), 50),
        (hello(b"\0"), 50),
        (hello(extension(0, b"")), 50),
        (hello(extension(0, vector(2, b""))), 50),
        (hello(sni(b"")), 50),
        (hello(sni(b"a.test", b"b.test")), 50),
        (hello(extension(0, vector(2, b"\0" + vector(2, b"a")) + b"x")), 50),
        (hello(sni(b"a.test") * 2), 47),
        (hello(extension(16, vector(2, b""))), 50),
        (hello(extension(16, vector(2, b"\0\0"))), 50),
        (hello(extension(16, vector(2, b"\x05h2"))), 50),
        (hello(extension(43, b"\x01\x03")), 50),
        (hello(extension(43, b"\x03\x03\x04\x03")), 50),
        (records(message(body(b"") + b"x")), 50),
        (records(message(body(None)[:-1])), 50),
    ],
)
def test_what_is_refused(data: bytes, alert: int) -> None:
    assert alert_of(data) == alert


def test_versions() -> None:
    found = read(hello(extension(43, vector(1, b"\x7a\x7a\x03\x04\x03\x03"))))
    assert found is not None
    assert found.versions == [0x7A7A, 0x0304, 0x0303]
    found = read(hello(None, version=0x0302))
    assert found is not None
    assert found.versions == [0x0302]


def test_what_is_kept_is_kept_once() -> None:
    """However it comes: all in one record but for its last byte, or in records of one byte."""
    whole = message(body(b"".join(extension(0x1000 + number, bytes(5_400)) for number in range(3))))
    for data in (records(whole)[:-1], records(whole[:2_500], 1)):
        tracemalloc.start()
        try:
            reader = HelloReader()
            for at in range(0, len(data), 1000):
                assert reader.feed(data[at : at + 1000]) is None
            assert bytes(reader.data) == data
            assert tracemalloc.get_traced_memory()[0] < 2.2 * len(data), "once, and the copy to compare with"
        finally:
            tracemalloc.stop()


def test_all_together_is_bounded() -> None:
    padding = b"".join(extension(0x1000 + number, bytes(5_400)) for number in range(3))
    assert read(hello(padding)) is not None
    assert read(records(message(body(padding)), 1000)) is not None
    assert alert_of(hello(padding + extension(0x2000, bytes(2_000)))) == 50
    whole = message(body(padding))
    crumbs = records(whole, 3)
    assert alert_of(crumbs) == 50, "records count, too"
    reader = HelloReader()
    with contextlib.suppress(Refusal):
        for at in range(0, len(crumbs), 1000):
            assert reader.feed(crumbs[at : at + 1000]) is None
    assert len(reader.data) <= LIMIT + 1000
