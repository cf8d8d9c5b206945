"""The configuration: one frozen object, from flags, environment, TOML file and defaults, in that order.

`load` names every mistake at once (SPEC section 1). A value that another source overrides is not looked at: overriding
is how an operator repairs it; an unknown name is always a mistake. The object travels to the children as JSON.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from wakegate import values
from wakegate.options import BY_NAME, OPTIONS, Option
from wakegate.values import Address, Span

# Variables of ours that are not options of `serve`, and those that Kubernetes sets for a Service of our name.
_SECRET_KEY = "WAKEGATE_SECRET_KEY"  # noqa: S105 - its name
_OTHER_VARIABLES = {
    *("WAKEGATE_CONFIG", _SECRET_KEY, "WAKEGATE_API_URL", "WAKEGATE_API_KEY", "WAKEGATE_NAMESPACE", "WAKEGATE_PIPE"),
}
_KUBERNETES = re.compile(r"WAKEGATE(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)\Z")


@dataclass(frozen=True, slots=True)
class Config:
    """Every option of `wakegate serve`. Durations in seconds unless said; sizes in bytes; paths absolute."""

    data_dir: Path
    http: tuple[Address, ...]
    https: tuple[Address, ...]
    public_http: Address | None
    public_https: Address | None
    api: Address
    api_insecure: bool
    api_rate: int  # requests a minute of one key; 0: any number
    max_services: int  # of a namespace; 0: any number
    api_host: str | None
    domain: str
    workers: int
    redis: str | None
    role: str  # all, gateway, control
    driver: str  # process, container, kubernetes
    engine_socket: Path | None
    region: str
    gpus: str  # auto, none, or "T4=2,L4=1"
    dcgm_url: tuple[str, ...]
    git_url: str
    git_poll: float
    builds: int  # at once
    idle_timeout: float
    hold_timeout: float
    hold_limit: int
    hold_keepalive_every: float
    waiting_page_after: float
    response_timeout: float
    drain_timeout: float
    max_body: int | None
    acme_directory: str | None
    acme_email: str | None
    acme_eab: str | None
    acme_profile: str | None
    acme_fallback: str | None
    acme_fallback_eab: str | None
    acme_ca_bundle: Path | None
    acme_dns_hook: Path | None
    https_redirect: str  # auto, on, off
    hsts: str  # off, on, or a max-age
    dns_server: Address | None
    trusted_proxies: tuple[str, ...]
    tombstone_ttl: float  # days
    stale_limit: float
    node_grace: float
    store_fsync: str  # everysec, always
    access_log: str  # a path, "-" or "off"
    log_size: int
    log_age: float  # days
    process_uids: Span

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives the same object back."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Config:
        return cls(**{name: _typed(BY_NAME[name], value) for name, value in data.items()})

    @property
    def public_http_port(self) -> int | None:
        """The port that clients see in `http://` endpoints; None: there is no HTTP listener."""
        return self.public_http.port if self.public_http else self.http[0].port if self.http else None

    @property
    def public_https_port(self) -> int | None:
        return self.public_https.port if self.public_https else self.https[0].port if self.https else None

    @property
    def api_url(self) -> str | None:
        """Where the gateway serves the API to those outside; None: nowhere."""
        port = self.public_https_port
        if self.api_host is None or port is None:
            return None
        return f"https://{self.api_host}" + ("" if port == 443 else f":{port}")

    @property
    def secret_key_file(self) -> Path:
        return self.data_dir / "secret.key"

    @property
    def runs_workers(self) -> bool:
        return self.role != "control"

    @property
    def runs_control(self) -> bool:
        return self.role != "gateway"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each value that is not a default came from ({name: "--http"})."""

    config: Config
    sources: Mapping[str, str]


class ConfigError(Exception):
    """Every mistake of a configuration, one line each, as `where: what`."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class _Given:
    """The texts given for one option, and where."""

    source: str
    texts: tuple[str, ...]


def load(flags: Mapping[str, Sequence[str]], environment: Mapping[str, str], file: Path | None = None) -> Loaded:
    """The configuration from what was given. `flags`: {option name: texts}. Raises ConfigError with every mistake."""
    mistakes: list[str] = []
    given = dict(_from_file(file, mistakes)) if file else {}
    given |= _from_environment(environment, mistakes)
    _attempt(values.secret_key, environment.get(_SECRET_KEY, ""), _SECRET_KEY, mistakes)
    given |= {name: _Given(BY_NAME[name].flag, tuple(texts)) for name, texts in flags.items()}
    settings = {option.name: _read(option, given.get(option.name), mistakes) for option in OPTIONS}
    if settings["access_log"] is None and settings["data_dir"] is not None:
        settings["access_log"] = str(settings["data_dir"] / "access.log")
    mistakes += _disagreements(settings, given)
    if mistakes:
        raise ConfigError(mistakes)
    return Loaded(Config(**settings), {name: value.source for name, value in given.items()})


def _from_environment(environment: Mapping[str, str], mistakes: list[str]) -> Iterator[tuple[str, _Given]]:
    by_variable = {option.variable: option for option in OPTIONS}
    for variable, text in sorted(environment.items()):
        if not variable.startswith("WAKEGATE_") or variable in _OTHER_VARIABLES:
            continue
        if option := by_variable.get(variable):
            yield option.name, _Given(variable, (text,))
        elif not _KUBERNETES.match(variable):
            known = [*by_variable, *(_OTHER_VARIABLES - {"WAKEGATE_PIPE"})]
            mistakes.append(f"{variable}: no such option{_did_you_mean(variable, known)}")


def _from_file(file: Path, mistakes: list[str]) -> Iterator[tuple[str, _Given]]:
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        mistakes.append(f"{file}: {error.strerror}")
        return
    except ValueError as error:  # not TOML, or not UTF-8
        mistakes.append(f"{file}: {error}")
        return
    spelled: dict[str, str] = {}  # name of an option -> how the file writes it
    for key, value in table.items():
        option = BY_NAME.get(key.replace("-", "_"))
        source = f"{file}: {key}"
        if option and spelled.setdefault(option.name, key) != key:
            mistakes.append(f"{source}: the same option as {spelled[option.name]}: give one of them")
            continue
        if option is None:
            mistakes.append(f"{source}: no such option{_did_you_mean(key, [o.key for o in OPTIONS])}")
            continue
        try:
            yield option.name, _Given(source, tuple(_texts(option, value)))
        except ValueError as error:
            mistakes.append(f"{source}: {error}")


def _texts(option: Option, value: object) -> Iterator[str]:
    """The texts of a TOML value: a list only where the option is repeatable, a boolean only where it is one."""
    if isinstance(value, list):
        if not option.repeatable:
            raise ValueError("expected one value, not a list")
        for item in value:
            if isinstance(item, list):
                raise ValueError("expected a list of values")
            yield from _texts(option, item)
    elif isinstance(value, bool) != option.boolean or not isinstance(value, str | int | float):
        raise ValueError("expected true or false" if option.boolean else "expected a string or a number")
    else:
        yield str(value)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _read(option: Option, given: _Given | None, mistakes: list[str]) -> Any:
    """The value of one option; None when absent, or wrong (and then said)."""
    source, texts = (given.source, given.texts) if given else (option.flag, ())
    if not given and option.default_text is not None:
        texts = (option.default_text,)
    if option.repeatable:
        pieces = [piece.strip() for text in texts for piece in text.split(",") if piece.strip()]
        if option.off and pieces == ["off"]:
            return ()
        return tuple(_attempt(option.read, piece, source, mistakes) for piece in pieces)
    return _attempt(option.read, texts[-1], source, mistakes) if texts else None


def _attempt(read: Callable[[str], Any], text: str, source: str, mistakes: list[str]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        mistakes.append(f"{source}: {error}")
        return None


def _disagreements(settings: Mapping[str, Any], given: Mapping[str, _Given]) -> Iterator[str]:
    """What holds between options. A setting that is None was absent or wrong by itself."""
    api, redis, role = settings["api"], settings["redis"], settings["role"]
    if api and not api.loopback and settings["api_insecure"] is False:
        yield f"--api: {api} is not loopback: it needs TLS, or --api-insecure to send keys in clear text"
    if role in ("gateway", "control") and not redis and "redis" not in given:
        yield f"--role: {role} needs --redis: a private store can't be shared with other nodes"
    for option in ("acme_eab", "acme_profile", "acme_fallback", "acme_dns_hook"):
        if settings[option] and not settings["acme_directory"]:
            yield f"{BY_NAME[option].flag}: needs --acme-directory"
    if settings["acme_fallback_eab"] and not settings["acme_fallback"]:
        yield "--acme-fallback-eab: needs --acme-fallback"
    if settings["acme_fallback"] and settings["acme_fallback"] == settings["acme_directory"]:
        yield "--acme-fallback: is the same as --acme-directory"
    if any(settings["dcgm_url"]) and settings["gpus"] in ("auto", "none"):
        yield "--dcgm-url: this node offers no GPUs: say which, as in --gpus T4=2"
    if not settings["http"] and role in ("all", "gateway"):
        yield f"{given['http'].source}: expected at least one address"
    if settings["api_host"] and not settings["https"] and not settings["public_https"] and role != "control":
        yield "--api-host: is served over https only: it needs --https, or --public-https where a balancer ends TLS"
    yield from _overlaps(settings)


def _overlaps(settings: Mapping[str, Any]) -> Iterator[str]:
    listeners = [(name, address) for name in ("http", "https") for address in settings[name] if address]
    if settings["api"]:
        listeners.append(("api", settings["api"]))
    for (one, first), (two, second) in combinations(listeners, 2):
        if first.overlaps(second):
            yield f"--{two}: {second} overlaps with {first} of --{one}"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path | Address | Span) else value


def _typed(option: Option, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(option.read(item) for item in value)
    return option.read(value) if isinstance(value, str) else value
