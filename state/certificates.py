"""The objects of the store that are about domains and their certificates, as frozen values (the others: `models`)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a name is served with over TLS (kind `certificate`, id = the name, in lower case: a host or `*.<parent>`).

    Times are those of the leaf. `issuer`: `internal` (the node's own authority), the URL of an ACME directory, or
    `uploaded` (by its owner, never renewed). `namespace`: whose it is, "" for the platform's names.
    """

    names: tuple[str, ...]  # of the leaf: DNS names, wildcards of one label among them
    chain: str  # PEM, leaf first
    key: str  # PEM of PKCS#8, sealed (Vault CERTIFICATES; tenant "", object = the record's id, field "key")
    issuer: str
    trusted: bool  # by clients that were told nothing of us; False: the internal authority
    not_before: int
    not_after: int
    namespace: str = ""


class Proof(enum.StrEnum):
    """How far a namespace has proved a domain to be its own, by DNS alone (SPEC section 4)."""

    PENDING_DNS = "pending_dns"
    PENDING_OWNERSHIP = "pending_ownership"  # another namespace holds it: only TXT moves it
    VERIFIED = "verified"
    MOVED = "moved"  # it was held, and another namespace proved it by TXT


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """What DNS should say of a domain, and what it was last heard to say (None: nothing, or not looked at yet).

    `type`: CNAME, A, AAAA, TXT or CAA; several values of one type are joined by ", ".
    """

    type: str
    name: str
    value: str
    observed: str | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """A namespace's claim on a custom domain (kind `domain`, id = `<namespace>/<name>`).

    Who holds the domain is said by its `Route`, written in the same commit: `held` and a route of this namespace go
    together. `reason` is machine readable (SPEC section 4), `detail` a sentence for the owner.
    """

    namespace: str
    name: str  # in A-labels, lower case
    service: str  # id of the service that it leads to
    created_at: int
    redirect: str | None = None  # another domain of the same service, to which requests are sent on
    proof: Proof = Proof.PENDING_DNS
    reason: str | None = None
    detail: str | None = None
    records: tuple[DnsRecord, ...] = ()
    held: bool = False  # proved by CNAME or TXT once, and not lost since: it is routed
    pointing: bool = False  # DNS led here when last heard: only then is a certificate ordered
    verified_at: int | None = None
    checked_at: int | None = None  # the last look that was answered
    check_at: int = 0  # the next look
    wrong_since: int | None = None  # the first of the answers in a row by which a held domain is not proved any more


@dataclass(frozen=True, slots=True)
class Window:
    """When a CA suggests to renew (RFC 9773 4.2)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Issuance:
    """The state of getting and renewing a name's certificate (kind `issuance`, id = the name).

    It is stored before the CA is asked, so that whoever goes on after a crash finds the order and its key. Keys are
    sealed (Vault ACME; tenant = `namespace`, object = the record's id, field "key").
    """

    names: tuple[str, ...]  # of the certificate
    namespace: str = ""  # "" for the platform's names
    directory: str | None = None  # URL, of the CA that is being asked, or was last
    order: str | None = None  # URL
    key: str | None = None  # of the order in progress, sealed
    began_at: int | None = None  # of the order in progress
    challenge: str | None = None  # type of the last one that the CA was asked to look at
    failures: int = 0  # in a row
    failed_at: int | None = None  # the last of them
    faults: int = 0  # those of them that were the CA's own; which CA is asked next is told by them
    retry_at: int | None = None  # not before, after a failure or at the CA's word
    waits: Mapping[str, int] = field(default_factory=dict)  # by directory, until when the CA wants to be left alone
    reason: str | None = None  # of the last failure, machine readable
    detail: str | None = None
    permanent: bool = False  # the CA or CAA forbids it: looked at seldom, or when its owner asks
    window: Window | None = None  # of the certificate that is served
    window_of: str | None = None  # identifier of the certificate that `window` is of (RFC 9773 4.1)
    window_at: int | None = None  # when to ask for the window again
    ordered: tuple[int, ...] = ()  # of the name, as in `Spent`, which has them in the store: here they are not stored
    failed: tuple[int, ...] = ()  # the same
    renewed: tuple[int, ...] = ()  # when orders were made early, at the CA's word, within the budget's time
    warned: int = 0  # when the owner of an uploaded certificate was last told that it ends


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent of the budgets of a name or a namespace (kind `budget`, id = as `certs` names it).

    It is nobody's, and stays when claim and issuance go, for as long as the budgets count it.
    """

    ordered: tuple[int, ...] = ()  # when orders that were no renewals were made, within the budget's time
    failed: tuple[int, ...] = ()  # when validations of the name failed, within the budget's time


@dataclass(frozen=True, slots=True)
class ChallengeAnswer:
    """`type`: http-01 or tls-alpn-01 (RFC 8555 8.3, RFC 8737)."""

    type: str
    token: str
    key_authorization: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """What every worker answers a CA that looks at a domain (kind `challenge`, id = the domain)."""

    answers: tuple[ChallengeAnswer, ...]
    created_at: int


@dataclass(frozen=True, slots=True)
class AcmeAccount:
    """Ours at one ACME server (kind `account`, id = as `certs` names the server).

    The key is sealed (Vault ACME; tenant "", object = the record's id, field "key") and stored before the server is
    asked for the account.
    """

    directory: str  # URL
    key: str
    url: str | None = None  # None: not registered yet
    contact: str | None = None
    created_at: int = 0
    orders: tuple[int, ...] = ()  # when orders were made, within the budget's time
    retry_at: int | None = None  # not before, at the server's word
    reason: str | None = None  # why


@dataclass(frozen=True, slots=True)
class Authority:
    """The internal development CA (kind `meta`, id `certificate-authority`): its root. Workers don't get it."""

    certificate: str  # PEM
    key: str  # PEM of PKCS#8, sealed (Vault CERTIFICATES; tenant "", object = the record's id, field "key")
    not_before: int
    not_after: int
