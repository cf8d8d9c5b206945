"""The table of the options of `wakegate serve` (SPEC section 1): name, default, reader, help.

The command line, the environment and the TOML file all come from this one table. A reader turns the text of one value
into its final form or raises ValueError; see `wakegate.config` for what holds between options.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wakegate import values


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `default` is text (read like any other value), None (absent) or a function of the environment."""

    name: str  # as a field of Config: data_dir
    read: Callable[[str], Any]
    default: str | Callable[[], str] | None
    help: str
    repeatable: bool = False
    boolean: bool = False
    metavar: str = "TEXT"
    off: bool = False  # repeatable: the one value `off` stands for none at all

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "WAKEGATE_" + self.name.upper()

    @property
    def key(self) -> str:
        """The key in the TOML file."""
        return self.name.replace("_", "-")

    @property
    def default_text(self) -> str | None:
        return self.default() if callable(self.default) else self.default


def boolean(text: str) -> bool:
    folded = text.strip().lower()
    if folded in ("1", "true", "yes", "on"):
        return True
    if folded in ("0", "false", "no", "off"):
        return False
    raise ValueError("expected true or false")


def one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected {', '.join(choices[:-1])} or {choices[-1]}")
        return text

    return read


def integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.removeprefix("-").isdecimal()) or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return read


def number(low: float, high: float, unit: str = "seconds") -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:  # false for nan
            raise ValueError(f"expected {unit} from {low:g} to {high:g}")
        return value

    return read


def _cpus() -> str:
    return str(len(os.sched_getaffinity(0)))


_REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1")
_YEAR = 366 * 86400

OPTIONS: tuple[Option, ...] = (
    Option("data_dir", values.absolute, "./.wakegate", "Keys, logs, checkouts, the embedded store.", metavar="DIR"),
    Option(
        "http",
        values.listener,
        "127.0.0.1:8080",
        "Public HTTP listener; repeatable; [::]:80 is dual-stack.",
        repeatable=True,
        metavar="HOST:PORT",
    ),
    Option(
        "https",
        values.listener,
        "127.0.0.1:8443",
        "Public HTTPS listener; repeatable; off: none.",
        repeatable=True,
        metavar="HOST:PORT",
        off=True,
    ),
    Option("public_http", values.public, None, "What clients see, behind NAT or a balancer.", metavar="[HOST:]PORT"),
    Option("public_https", values.public, None, "The same for HTTPS.", metavar="[HOST:]PORT"),
    Option(
        "api", values.listener, "127.0.0.1:8081", "Services API, dashboard, /metrics, /healthz.", metavar="HOST:PORT"
    ),
    Option("api_insecure", boolean, "false", "Allow --api without TLS beyond loopback.", boolean=True),
    Option("api_rate", integer(0, 1_000_000), "600", "Requests a minute of one API key; 0 = any number.", metavar="N"),
    Option("max_services", integer(0, 1_000_000), "1000", "Services of one namespace; 0 = any number.", metavar="N"),
    Option("api_host", values.hostname, None, "Host under which the gateway serves the API.", metavar="HOST"),
    Option("domain", values.hostname, "apps.localhost", "Platform domain: endpoints are LABEL.DOMAIN.", metavar="NAME"),
    Option("workers", integer(1, 1024), _cpus, "Gateway worker processes; default: one per CPU.", metavar="N"),
    Option("redis", values.store_url, None, "Shared Redis or Valkey instead of a private one.", metavar="URL"),
    Option("role", one_of("all", "gateway", "control"), "all", "all, gateway or control.", metavar="ROLE"),
    Option("driver", one_of("process", "container", "kubernetes"), "process", "Where replicas run.", metavar="NAME"),
    Option("engine_socket", values.absolute, None, "Docker or Podman; default: the first found.", metavar="SOCKET"),
    Option("region", one_of(*_REGIONS), "us-east-1", "The region of this node.", metavar="NAME"),
    Option("gpus", values.gpus, "auto", "GPUs that this node offers: auto, none, or T4=2.", metavar="WHAT"),
    Option(
        "dcgm_url",
        values.exporter_url,
        None,
        "DCGM exporter of this node's GPUs, beside NVML; repeatable.",
        repeatable=True,
        metavar="URL",
    ),
    Option("git_url", values.git_url, "https://github.com/{repo}.git", "Where repo is cloned from.", metavar="URL"),
    Option("git_poll", number(0, 86400), "60", "Seconds between looks at branch heads; 0 = never.", metavar="S"),
    Option("builds", integer(1, 1000), "2", "Builds at once; the last place is kept for others.", metavar="N"),
    Option("idle_timeout", number(1, 86400), "300", "Seconds without requests before sleep.", metavar="S"),
    Option("hold_timeout", number(1, 3600), "120", "Longest hold of a request, seconds.", metavar="S"),
    Option("hold_limit", integer(1, 1_000_000), "1000", "Requests held per service per worker.", metavar="N"),
    Option("hold_keepalive_every", number(1, 300), "15", "Who is held is told so, where asked for.", metavar="S"),
    Option("waiting_page_after", number(0, 300), "3", "Hold of a browser before the waiting page.", metavar="S"),
    Option("response_timeout", number(0.1, 86400), "300", "Head of the response, seconds.", metavar="S"),
    Option("drain_timeout", number(0, 3600), "30", "Graceful stop, seconds.", metavar="S"),
    Option("max_body", values.size, None, "Largest request body, e.g. 10MiB.", metavar="SIZE"),
    Option("acme_directory", values.acme_directory, None, "letsencrypt, letsencrypt-staging or a URL.", metavar="URL"),
    Option("acme_email", values.email, None, "Contact of the ACME account.", metavar="EMAIL"),
    Option("acme_eab", values.eab, None, "External account binding.", metavar="KID:KEY"),
    Option("acme_profile", values.profile, None, "Kind of certificate, e.g. shortlived.", metavar="NAME"),
    Option("acme_fallback", values.acme_directory, None, "Asked while the first one fails.", metavar="URL"),
    Option("acme_fallback_eab", values.eab, None, "External account binding of that.", metavar="KID:KEY"),
    Option("acme_ca_bundle", values.readable_file, None, "CAs of the ACME server.", metavar="FILE"),
    Option("acme_dns_hook", values.program, None, "Program that sets TXT records.", metavar="FILE"),
    Option(
        "https_redirect", one_of("auto", "on", "off"), "auto", "auto (trusted certificates), on or off.", metavar="WHEN"
    ),
    Option("hsts", values.hsts, "off", "off, on (a year), or the max-age in seconds.", metavar="WHEN"),
    Option("dns_server", values.resolver, None, "Resolver for domain verification.", metavar="IP:PORT"),
    Option(
        "trusted_proxies",
        values.network,
        None,
        "CIDRs whose X-Forwarded-* and PROXY protocol are believed; repeatable.",
        repeatable=True,
        metavar="CIDR",
    ),
    Option("tombstone_ttl", number(0, 36500, "days"), "90", "Days for which deleted hosts answer 503.", metavar="DAYS"),
    Option("stale_limit", number(1, _YEAR), "3600", "Seconds that a node cut off serves what it knows.", metavar="S"),
    Option("node_grace", number(5, 86400), "30", "Seconds of silence until a node is lost.", metavar="S"),
    Option("store_fsync", one_of("everysec", "always"), "everysec", "everysec or always.", metavar="WHEN"),
    Option("access_log", values.access_log, None, "Path, - or off; default DATA-DIR/access.log.", metavar="PATH"),
    Option("log_size", values.log_size, "64MiB", "What is kept of a service's log, at most.", metavar="SIZE"),
    Option("log_age", number(0.01, 36500, "days"), "30", "Days for which lines of logs are kept.", metavar="DAYS"),
    Option("process_uids", values.span, "61000-61999", "Uids of namespaces, when root.", metavar="FIRST-LAST"),
)
BY_NAME = {option.name: option for option in OPTIONS}
