"""Everything about the package is in pyproject.toml; this adds what it can't say: `WAKEGATE_COMPILE=1` compiles the hot
modules of the data plane with mypyc. The same source runs plain, and both forms pass the same tests."""

from __future__ import annotations

import os

from setuptools import setup

HOT = [
    "gateway/errors.py",
    "gateway/messages.py",
    "gateway/fields.py",
    "gateway/guards.py",
    "gateway/histogram.py",
    "gateway/sweep.py",
    "gateway/states.py",
    "gateway/sides.py",
    "gateway/replica.py",
    "gateway/service.py",
    "gateway/balance.py",
    "gateway/pool.py",
    "gateway/table.py",
    "gateway/answers.py",
    "gateway/access_log.py",
    "gateway/exchange.py",
    "gateway/dispatch.py",
    "gateway/http1/chunked.py",
    "gateway/http1/request_head.py",
    "gateway/http1/response_head.py",
    "gateway/http1/server.py",
    "gateway/http1/upstream.py",
]


def extensions() -> list[object]:
    if os.environ.get("WAKEGATE_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    return list(mypycify(HOT, opt_level="3", group_name="wakegate_gateway", separate=False))


setup(ext_modules=extensions())
