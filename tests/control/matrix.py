"""What each field of a body may hold and may not (SPEC section 2): the table that `test_matrix.py` walks.

A bad value is alone in its body, or one of many; each is refused by the name of its field, or by `named`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

HUGE: Final = 10**30
NOT_INTEGERS: Final = (True, False, 1.0, 2.0, 1.5, "1", "", [], [1], {})
NOT_TEXTS: Final = (True, False, 0, 1, 1.0, [], ["a"], {}, {"a": "b"})
NOT_OBJECTS: Final = (True, False, 0, 1, 1.5, "", "a", [], [{}])


@dataclass(frozen=True, slots=True)
class Bad:
    """A value that is refused, and under which names."""

    value: Any
    named: frozenset[str]


@dataclass(frozen=True, slots=True)
class Field:
    """`elsewhere`: valid, but no node of the test's site can run it: 422 under these names.

    `beside` is what else a body must say for the field's good values to make sense.
    """

    good: Sequence[Any]
    bad: Sequence[Any]
    required: bool = False
    default: Any = None
    beside: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: Mapping[Any, frozenset[str]] = field(default_factory=dict)
    shown: Mapping[Any, Any] = field(default_factory=dict)

    def refusals(self, name: str) -> Iterator[Bad]:
        for value in (*self.bad, *((None,) if self.required else ())):
            yield value if isinstance(value, Bad) else Bad(value, frozenset({name}))


def whole(low: int, high: int, default: int | None = None, **more: Any) -> Field:
    """An integer: at both bounds and one inside; below, above, far beyond, and everything that only looks like one."""
    good = sorted({low, low + 1, high - 1, high})
    return Field(good, (low - 1, high + 1, -HUGE, HUGE, float(high), str(low), *NOT_INTEGERS), default=default, **more)


def one_of(*choices: int, default: int | None = None, **more: Any) -> Field:
    between = {n + step for n in choices for step in (-1, 1)} - set(choices)
    return Field(choices, (*sorted(between), -HUGE, HUGE, float(choices[-1]), *NOT_INTEGERS), default=default, **more)


def text(good: Sequence[str], bad: Sequence[Any], **more: Any) -> Field:
    return Field(good, (*bad, "\ud800", *NOT_TEXTS), **more)


def flag(default: bool) -> Field:
    """True or false: not what only looks like one."""
    return Field((True, False), (0, 1, "true", "", "yes", 1.0, [], {}), default=default)


def bad(value: Any, *named: str) -> Bad:
    return Bad(value, frozenset(named))


REPO: Final = {"repo": "acme/api"}
NOT_HERE: Final = {gpu: frozenset({"gpu"}) for gpu in ("A100-40GB", "A100-80GB", "H100-80GB", "L4")}
REGIONS_NOT_HERE: Final = {r: frozenset({"region"}) for r in ("us-west-2", "eu-central-1", "ap-northeast-1")}
BRANCHES: Final = text(
    ["main", "a/b", "feature-1.2", "b" * 1024],
    [
        "", " ", "a b", "-x", "@", "HEAD", "a..b", "/a", "a/", "a//b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "a~1",
        "a^", "a:b", "a?", "a*", "a[", "a\\b", "a@{b", "a\x7f", "a\n", "a\0", "b" * 1025,
    ],
    default="main",
)  # fmt: skip
IMAGES: Final = text(
    ["nginx", "nginx:1.27", "ghcr.io/a/b:c", "localhost:5000/a", "a@sha256:" + "0" * 64, "a" * 255],
    ["", " ", "Nginx", "a b", ":tag", "a:", "a@sha256:00", "https://a/b", "-a", "a" * 256, "a:" + "t" * 129, "a\0"],
    beside={"repo": None},
)
PATHS: Final = text(
    ["/", "/" + "a" * 1023, "/x?y=1", "/%C3%A4"],
    ["", "x", "http://a/", "/" + "a" * 1024, "/a b", "/ä", "/\r\nX: y", "/#", "/\0", "/\t"],
    default="/",
)
DOMAINS: Final = text(
    ["www.acme.com", "acme.com", "WWW2.Acme.com.", "bücher.acme.com", "a." + "b" * 63 + ".com"],
    [
        "", ".", "localhost", "com", "co.uk", "github.io", "1.2.3.4", "::1", "[::1]", "*.acme.com", "a.*.com",
        "x.apps.localhost", "apps.localhost", "api.example.com", "a..b.com", "-a.com", "a-.com", "a_b.acme.com",
        "www.acme.com:80", "http://www.acme.com", "www.acme.com/x", "a b.com", "a\0.com", "x" * 64 + ".com",
        ".".join(["a" * 63] * 4) + ".com",
    ],
    shown={"WWW2.Acme.com.": "www2.acme.com", "bücher.acme.com": "xn--bcher-kva.acme.com"},
)  # fmt: skip
VALUES: Final = (
    bad({"A": None}, "env.A"),
    bad({"A": 1, "B": True, "C": 1.0, "D": [], "E": {}, "F": "fine"}, "env.A", "env.B", "env.C", "env.D", "env.E"),
    bad({"A": "***"}, "env.A"),
    bad({"A": "a\0b"}, "env.A"),
    bad({"A": "\ud800"}, "env.A"),
    bad({"A": "x" * 32_769}, "env.A"),
    bad({"A": "é" * 16_385}, "env.A"),
    bad({"PORT": "1"}, "env.PORT"),
    bad({"": "a", "1A": "a", "A-B": "a", "A B": "a", "Ä": "a"}, "env.", "env.1A", "env.A-B", "env.A B", "env.Ä"),
    bad({"A\n": "a"}, "env.A\n"),
    bad({"A" * 257: "a"}, "env." + "A" * 257),
    bad({"A" * 500_000: "a", "B": 1, "_" * 257: ""}, "env." + "A" * 500_000, "env.B", "env." + "_" * 257),
)
ENVIRONMENTS: Final = Field(
    [{}, {"A": ""}, {"_": "x" * 32_768, "a1": "é" * 16_384}, {f"N{n}": "v" for n in range(256)}, {"A" * 256: "v"}],
    [*NOT_OBJECTS, {f"N{n}": "v" for n in range(257)}, *VALUES],
    default={},
)
SCALING: Final = {
    "scaling.concurrency": whole(0, 10_000, 0),
    "scaling.target_concurrency": whole(1, 10_000, 100),
    "scaling.target_requests_per_second": whole(1, 100_000),
    "scaling.target_queue_delay_ms": whole(1, 60_000),
    "scaling.idle_timeout": whole(1, 86_400, 300),
    "scaling.scale_down_delay": whole(0, 3600, 60),
    "scaling.hold_timeout": whole(1, 3600, 120),
    "scaling.startup_timeout": whole(1, 3600, 600),
    "scaling.affinity": text(["none", "cookie", "prefix"], ["", "None", "ip"], default="none"),
    "scaling.hold_keepalive": flag(False),
    "scaling.waiting_page": flag(True),
    "scaling.warm_reserve": flag(False),
    "scaling": Field(
        [{}], [*NOT_OBJECTS, bad({"zz": 1}, "scaling.zz"), bad({"": 1, "a b": 2}, "scaling.", "scaling.a b")]
    ),
}
CAPACITY: Final = {
    "min_replicas": whole(0, 100, 1, beside={"max_replicas": 100}),
    "max_replicas": whole(1, 100, 1, beside={"min_replicas": 0}),
    "target_gpu_utilization": whole(10, 95, 70),
    **SCALING,
}
RUN: Final = {
    "branch": BRANCHES,
    "image": IMAGES,
    "cpu": one_of(2, 4, 8, 16, 32, 64, default=2),
    "memory": whole(1, 1024, 4),
    "port": whole(1, 65_535, 8080),
    "health_check_path": PATHS,
    "env": ENVIRONMENTS,
}

CREATE: Final[Mapping[str, Field]] = {
    "name": text(
        ["a", "A" * 63, "-_-", "9", "Llama-3_serving"],
        ["", " ", "a" * 64, "a.b", "a/b", "a b", "ä", "a\n", "a\0"],
        required=True,
    ),
    "repo": text(
        ["a/b", "A.b-c_d/.git-x", "a/" + "b" * 253],
        ["", "a", "/", "a/", "/b", "a/..", "./b", "a/b/c", "a b/c", "a/b\n", "a/" + "b" * 254, "a/ä", "https://a/b"],
    ),
    "gpu": text(["none", "T4"], ["", "t4", "A100", "None", "T4 "], required=True, elsewhere=NOT_HERE),
    "gpu_count": one_of(1, 2, 4, 8, beside={"gpu": "T4"}, elsewhere=dict.fromkeys((4, 8), frozenset({"gpu"}))),
    "region": text(
        ["us-east-1", "eu-west-1"],
        ["", "us-east-2", "US-EAST-1", "us-east-1 "],
        default="us-east-1",
        elsewhere=REGIONS_NOT_HERE,
    ),
    "custom_domain": DOMAINS,
    **RUN,
    **CAPACITY,
}  # fmt: skip
KEY: Final[Mapping[str, Field]] = {
    "name": text(
        ["a", "A" * 63, "ci.deploy_key-1"],
        ["", ".a", "-a", "_a", "a$b", "a b", "a/b", "a" * 64, "ä", "a\n", "a\0"],
        required=True,
    ),
    "namespace": text(
        ["*", "a", "a" * 39, "a-b", "0"],
        ["", "A", "-a", "a-", "a" * 40, "a_b", "a.b", "**", "ä", "admin", "api", "auth", "hooks", "openapi.json"],
        default="*",
    ),
    "scope": text(["read", "write", "admin"], ["", "Read", "root", "read,write"], required=True),
    "expires": text(
        ["1s", "90d", "999w", "2999-01-01T00:00:00Z", "2999-01-01T00:00:00+02:00"],
        [
            "",
            "0d",
            "-1d",
            "1.5d",
            "90",
            "d",
            "1y",
            "999999999w",
            "2020-01-01T00:00:00Z",
            "2999-01-01",
            "2999-13-01T00:00:00Z",
        ],
    ),
}


def fixed(*values: Any) -> Field:
    """Taken by create alone: whatever an update says of it is refused."""
    return Field((), values)


UPDATE: Final[Mapping[str, Field]] = {
    "custom_domain": DOMAINS,
    **RUN,
    **CAPACITY,
    "name": fixed("api", "other", 1),
    "repo": fixed("acme/api", "acme/other", True),
    "gpu": fixed("none", "T4", ""),
    "gpu_count": fixed(1, "1"),
    "region": fixed("us-east-1", "mars", []),
}
DOMAIN: Final[Mapping[str, Field]] = {
    "domain": replace(DOMAINS, required=True),
    "redirect_to": Field((), DOMAINS.bad),
}
CERTIFICATE: Final[Mapping[str, Field]] = {
    "certificate": text([], ["a" * 65_537], required=True),
    "key": text([], ["a" * 16_385], required=True),
}
ROLLBACK: Final[Mapping[str, Field]] = {"deployment": Field((), NOT_TEXTS)}
