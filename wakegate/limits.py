"""The limit on open files: raised as far as allowed, refused where nothing could work, told where it is tight."""

from __future__ import annotations

import resource

from wakegate.errors import ServeError

NEEDED = 1024  # files; below this the store and a worker under light load run out
COMFORTABLE = 8192  # files; a client connection takes one, and its upstream another


_OWN = 64  # files of a worker that are no connection: listeners, the store, logs, the cache, the loop


def client_connections(files: int) -> int:
    """How many client connections a process with this limit on open files may have: the rest is for replicas.

    More than fit if all of them had a request under way, because most are idle; when files run out, those are closed.
    """
    return max(files * 3 // 4, 1)


def connections_of_one(files: int) -> int:
    """How many of them one client may have: each with its connection to a replica, and a tenth is left for others."""
    return max((files - _OWN) * 9 // 20, 1)


def connect_limit(files: int) -> int:
    """The descriptor from which on none is for a connection to a replica, so that clients can still be accepted."""
    return max(files - max(files // 32, 16), 1)


def raise_file_limit() -> str | None:
    """Raise the soft limit to the hard one. Returns a warning, or None. Raises ServeError when it is hopeless."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1 << 20)
    if soft != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return judged(hard)


def judged(limit: int) -> str | None:
    """What to say of a limit on open files."""
    fix = "raise it with `ulimit -Hn 65536`, or LimitNOFILE=65536 in the systemd unit"
    if limit < NEEDED:
        raise ServeError(f"only {limit} open files are allowed, at least {NEEDED} are needed: {fix}")
    if limit < COMFORTABLE:
        return f"only {limit} open files are allowed, each held or open connection takes one or two: {fix}"
    return None
