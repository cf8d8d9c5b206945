"""The fields of a service as options: one per field of the API, which alone knows what is right and what is default."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Final, NamedTuple

import click

from wakegate.commands.suggestions import choices


class _Field(NamedTuple):
    name: str
    kind: type
    help: str
    values: tuple[str, ...] = ()  # that the shell completes


_RUN: Final = (
    _Field("image", str, "container image"),
    _Field("branch", str, "branch of the repository [default: main]"),
    _Field("cpu", int, "vCPUs: 2, 4, 8, 16, 32 or 64 [default: 2]", ("2", "4", "8", "16", "32", "64")),
    _Field("memory", int, "GiB, 1-1024 [default: 4]"),
    _Field("port", int, "where a container listens [default: 8080]"),
    _Field("health_check_path", str, "must answer 200 [default: /]"),
)
_CAPACITY: Final = (
    _Field("min_replicas", int, "0-100; 0 = sleeps when idle [default: 1]"),
    _Field("max_replicas", int, "1-100 [default: 1, or --min-replicas]"),
    _Field("target_gpu_utilization", int, "percent, 10-95 [default: 70]"),
    _Field("custom_domain", str, "a domain of your own"),
)
_GPUS: Final = ("A100-40GB", "A100-80GB", "H100-80GB", "L4", "T4", "none")
_REGIONS: Final = ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1")
_FIXED: Final = (
    _Field("repo", str, "repository, namespace/repo"),
    _Field("gpu", str, ", ".join(_GPUS) + " [default: none]", _GPUS),
    _Field("gpu_count", int, "1, 2, 4 or 8 [default: 1]", ("1", "2", "4", "8")),
    _Field("region", str, ", ".join(_REGIONS) + " [default: the node's]", _REGIONS),
)
_SCALING: Final = (
    _Field("concurrency", int, "requests at once per replica; 0 = no limit [default: 0]"),
    _Field("target_concurrency", int, "requests per replica that scaling aims at [default: 100]"),
    _Field("target_requests_per_second", int, "requests a second per replica that scaling aims at"),
    _Field("target_queue_delay_ms", int, "longest wait for a replica that scaling aims at, milliseconds"),
    _Field("idle_timeout", int, "seconds without requests before sleep"),
    _Field("scale_down_delay", int, "seconds of less demand before a replica goes [default: 60]"),
    _Field("hold_timeout", int, "longest hold of a request, seconds"),
    _Field("startup_timeout", int, "seconds that a replica may take to start [default: 600]"),
    _Field(
        "affinity",
        str,
        "cookie = clients, prefix = prompts come back to their replica [default: none]",
        ("none", "cookie", "prefix"),
    ),
    _Field("hold_keepalive", bool, "tell who is held so from time to time [default: no]"),
    _Field("waiting_page", bool, "browsers get a page that waits for a sleeping service [default: yes]"),
    _Field("warm_reserve", bool, "wake it ahead of the hours of the week in which it had requests [default: no]"),
)

_ENV_LINE: Final = re.compile(r"(?:export\s+)?([^\s=]+)\s*=\s*(.*)")
_QUOTED: Final = re.compile(r"""(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:#.*)?""")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}


def create_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every field; what is not given is left to the API."""
    return _options(command, (*_FIXED, *_RUN, *_CAPACITY, *_SCALING))


def update_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The fields that may change, and how one is taken away."""
    command = click.option("--no-custom-domain", is_flag=True, help="Take the custom domain away.")(command)
    command = click.option("--clear-env", is_flag=True, help="Take all of the environment away.")(command)
    return _options(command, (*_RUN, *_CAPACITY, *_SCALING), defaults=False)


def _options(command: Callable[..., Any], fields: Sequence[_Field], *, defaults: bool = True) -> Callable[..., Any]:
    for field in reversed(fields):
        settings: dict[str, Any] = {"shell_complete": choices(*field.values)} if field.values else {}
        told = field.help if defaults else field.help.partition(" [default")[0]
        name = field.name.replace("_", "-")
        if field.kind is bool:
            option = click.option(f"--{name}/--no-{name}", field.name, default=None, help=told)
        else:
            option = click.option("--" + name, field.name, type=field.kind, help=told, **settings)
        command = option(command)
    return command


def env_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--env` and `--env-file`, for `environment`."""
    text = "Environment; repeatable, and counts over --env-file."
    return click.option("--env", multiple=True, callback=_pairs, metavar="KEY=VALUE", help=text)(env_file(command))


def env_file(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Environment from a file of KEY=VALUE lines; - = the standard input, which no process list shows."
    return click.option("--env-file", type=click.File(encoding="utf-8"), callback=_file, help=text)(command)


def environment(env: Mapping[str, str], env_file: Mapping[str, str] | None) -> dict[str, str] | None:
    """Both together; None if neither was given."""
    return None if env_file is None and not env else {**(env_file or {}), **env}


def body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a create or an update, of the options that were given."""
    given = {name: value for name, value in fields.items() if value is not None}
    scaling = {field.name: given.pop(field.name) for field in _SCALING if field.name in given}
    return {**given, **({"scaling": scaling} if scaling else {})}


def _pairs(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    return assignments(given)


def assignments(given: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` each. Raises click.BadParameter, which never tells a value: it may be a secret."""
    pairs = {}
    for number, text in enumerate(given, 1):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"number {number} is not KEY=VALUE")
        pairs[key] = value
    return pairs


def _file(_: click.Context, __: click.Parameter, given: IO[str] | None) -> dict[str, str] | None:
    if given is None:
        return None
    try:
        return env_lines(given.read().splitlines())
    except UnicodeDecodeError:
        raise click.BadParameter("is not UTF-8") from None


def env_lines(lines: Iterable[str]) -> dict[str, str]:
    """A file of `KEY=VALUE` lines, as `.env` files are: comments, `export`, values plain or in quotes.

    In double quotes `\\n`, `\\t`, `\\r` are control characters and a backslash makes any other character itself.
    Raises click.BadParameter with the numbers of all bad lines.
    """
    pairs: dict[str, str] = {}
    bad = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _ENV_LINE.fullmatch(text)
        value = _value(match[2]) if match else None
        if match is None or value is None:
            bad.append(str(number))
        else:
            pairs[match[1]] = value
    if bad:
        raise click.BadParameter(f"not KEY=VALUE, or a quote is open: line {', '.join(bad)}")
    return pairs


def _value(text: str) -> str | None:
    """None: a quote is open, or something follows it."""
    if not text.startswith(("'", '"')):
        return text.partition(" #")[0].rstrip()
    match = _QUOTED.fullmatch(text)
    if match is None:
        return None
    return match[1] if match[1] is not None else re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), match[2])
