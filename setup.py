"""Everything about the package is in pyproject.toml; this adds what it can't say: `WAKEGATE_COMPILE=1` compiles the hot
modules of the data plane with mypyc (`WAKEGATE_COMPILE_LEVEL`: the C compiler's, default 3; 0 builds fast). The same
source runs plain, and both forms pass the same tests."""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

COMPILE = os.environ.get("WAKEGATE_COMPILE") == "1"
# What a build needs, and its metadata, are asked for first, by these: nothing is compiled for an answer.
ASKED = {"egg_info", "dist_info"}
# gcc rereads the generated file, of 15 MB, for this warning all the time: without it, it takes 10 s of 23 s.
CHEAPER = ["-Wno-misleading-indentation"]

HOT = [
    "gateway/errors.py",
    "gateway/messages.py",
    "gateway/fields.py",
    "gateway/guards.py",
    "gateway/histogram.py",
    "gateway/sweep.py",
    "gateway/turns.py",
    "gateway/tcp.py",
    "gateway/states.py",
    "gateway/sides.py",
    "gateway/pacing.py",
    "gateway/health.py",
    "gateway/replica.py",
    "gateway/retry_budget.py",
    "gateway/affinity.py",
    "gateway/service.py",
    "gateway/balance.py",
    "gateway/pool.py",
    "gateway/table.py",
    "gateway/challenges.py",
    "gateway/answers.py",
    "gateway/access_log.py",
    "gateway/clients.py",
    "gateway/exchange.py",
    "gateway/holding.py",
    "gateway/secure.py",
    "gateway/api_host.py",
    "gateway/connections.py",
    "gateway/dispatch.py",
    "gateway/http1/body.py",
    "gateway/http1/chunked.py",
    "gateway/http1/request_head.py",
    "gateway/http1/request_writer.py",
    "gateway/http1/response_head.py",
    "gateway/http1/response_writer.py",
    "gateway/http1/server.py",
    "gateway/http1/upstream.py",
    "gateway/tls/alerts.py",
    "gateway/tls/client_hello.py",
    "gateway/tls/selection.py",
    "gateway/tls/stream.py",
    "gateway/tls/opening.py",
    "gateway/prefaced.py",
]


def extensions() -> list[Extension]:
    if not COMPILE or ASKED.intersection(sys.argv):
        return []
    from mypyc.build import mypycify

    found = mypycify(HOT, opt_level=os.environ.get("WAKEGATE_COMPILE_LEVEL", "3"), debug_level="0")
    for extension in found:
        extension.extra_compile_args += CHEAPER
    return found


setup(ext_modules=extensions(), setup_requires=["mypy>=1.13"] if COMPILE else [])
