"""Who meets in a TLS test: certificates made here, an edge that has them, and a client that controls every record."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from wire import PATIENCE, Conversation, Peer

from gateway.adoption import Listeners
from gateway.edge import Edge
from gateway.settings import GatewaySettings
from gateway.table import Table
from gateway.tls.contexts import Material

TlsStarter = Callable[..., Awaitable["TlsConversation"]]


class Pair:
    """A certificate, signed by itself, and its key; both PEM."""

    def __init__(self, name: str, kind: str = "ec") -> None:
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
            ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
        )
        self.serial = x509.random_serial_number()
        subject = x509.Name(
            [
                x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
                x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, str(self.serial)),  # two of one name are two issuers
            ]
        )
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), self.serial)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.chain = certificate.public_bytes(serialization.Encoding.PEM)
        self.key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@cache
def pair(name: str = "app.test", kind: str = "ec", number: int = 0) -> Pair:
    """The same one for the same arguments: keys are slow to make."""
    return Pair(name, kind)


class Shelf:
    """Certificates by name, as a worker finds them in its mirror."""

    def __init__(self) -> None:
        self.materials: dict[str, Material] = {}
        self.unsealed = 0

    def put(self, name: str, of: Pair, version: int = 1, trusted: bool = False) -> None:
        def key() -> bytes:
            self.unsealed += 1
            return of.key

        self.materials[name] = Material(name, version, of.chain, key, trusted)

    def find(self, name: str) -> Material | None:
        return self.materials.get(name) or self.materials.get("*." + name.partition(".")[2])


class Truncated(Exception):
    """The connection ended without close_notify."""


class TlsPeer:
    """A client's end, over a `Peer` that carries the records. `raw` is for what OpenSSL wouldn't do."""

    def __init__(self, raw: Peer, context: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None) -> None:
        self.raw = raw
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name, session=session)
        self.seen = b""

    def records(self) -> bytes:
        """What OpenSSL wants to send."""
        return self._out.read()

    async def handshake(self) -> TlsPeer:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.raw.send(self.records())
                await self._read()
            else:
                await self.raw.send(self.records())
                return self

    async def _read(self) -> None:
        async with asyncio.timeout(PATIENCE):
            data = await self.raw.reader.read(1 << 16)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def more(self) -> bytes:
        """Some decrypted bytes; empty: close_notify came."""
        while True:
            try:
                return self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                await self._read()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError as error:
                raise Truncated from error

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view[:16384]) :]
            if self._out.pending > 1 << 16 or not view:
                await self.raw.send(self._out.read())

    async def through(self, mark: bytes) -> bytes:
        while mark not in self.seen:
            data = await self.more()
            if not data:
                raise EOFError(f"closed after {self.seen!r}")
            self.seen += data
        end = self.seen.index(mark) + len(mark)
        found, self.seen = self.seen[:end], self.seen[end:]
        return found

    async def head(self) -> bytes:
        return await self.through(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        pieces, have = [self.seen], len(self.seen)
        while have < size:
            data = await self.more()
            if not data:
                raise EOFError(f"closed after {have} of {size} bytes")
            pieces.append(data)
            have += len(data)
        whole = b"".join(pieces)
        self.seen = whole[size:]
        return whole[:size]

    async def rest(self) -> bytes:
        """Up to close_notify. Raises Truncated if there is none."""
        pieces = [self.seen]
        while data := await self.more():
            pieces.append(data)
        self.seen = b""
        return b"".join(pieces)

    async def end(self) -> None:
        """close_notify: no more bytes from here. TCP stays open."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.raw.send(self.records())

    def shown(self) -> int:
        """The serial number of the certificate that the edge showed."""
        der = self.tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def trusting(*pairs: Pair, protocols: list[str] | None = None) -> ssl.SSLContext:
    """A client's context that believes these."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for one in pairs:
        context.load_verify_locations(cadata=one.chain.decode())
    if protocols is not None:
        context.set_alpn_protocols(protocols)
    return context


def client_hello(name: str | None = "app.test", context: ssl.SSLContext | None = None) -> bytes:
    """What OpenSSL would send first."""
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs two")


class TlsConversation(Conversation):
    """A conversation whose edge also has a TLS listener. `shelf`: its certificates, app.test's from the start."""

    def __init__(self, settings: GatewaySettings, log_fd: int | None = None) -> None:
        super().__init__(settings, log_fd)
        self.shelf = Shelf()
        self.shelf.put("app.test", pair())
        self.edge = Edge(settings, Table(self), self.log, self, self.shelf)
        self.said: list[str] = []
        self.edge.complain_to(self.said.append)
        self.tls_port = 0
        self._listeners: Listeners | None = None

    async def start(self) -> None:
        await super().start()
        sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.tls_port = sock.getsockname()[1]
        self._listeners = Listeners([[sock]], 1, self.edge.tls_factory(), self.said.append)  # as in a worker
        self._listeners.start()

    async def raw(self) -> Peer:
        """A TCP connection to the TLS listener."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.tls_port, limit=1 << 20)
        peer = Peer(reader, writer)
        self._ends.append(peer.close)
        return peer

    async def secure(
        self,
        name: str | None = "app.test",
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        preface: bytes = b"",
    ) -> TlsPeer:
        """A client with a complete handshake."""
        raw = await self.raw()
        if preface:
            await raw.send(preface)
        context = context or trusting(pair())
        return await TlsPeer(raw, context, name, session).handshake()

    @property
    def handshakes(self) -> dict[str, object]:
        counted: dict[str, object] = self.edge.counters()["tls"]
        return counted

    def failed(self, reason: str) -> int:
        count: int = self.edge.counters()["tls"]["failed"].get(reason, 0)
        return count

    async def stop(self) -> None:
        if self._listeners is not None:
            self._listeners.close()
        await super().stop()
