"""The access log knows which TLS a request came over."""

from __future__ import annotations

import json
import os
import ssl

import pytest
from tls_parties import TlsStarter, pair, trusting
from wire import get, log_pipe, until


@pytest.mark.parametrize(
    ("version", "name"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
async def test_the_version_is_logged(secured: TlsStarter, version: ssl.TLSVersion, name: str) -> None:
    out, end = log_pipe()
    talk = await secured(log_fd=end)
    context = trusting(pair())
    context.minimum_version = context.maximum_version = version
    client = await talk.secure(context=context)
    await client.send(get(host="app.test"))
    await client.head()
    broken = await talk.secure(context=context)
    await broken.send(b"nonsense\r\n\r\n")
    await broken.head()
    await until(lambda: talk.edge.counters()["services"][""]["requests"].get("400") == 1)
    talk.log.close()
    os.close(end)
    with os.fdopen(out) as stream:
        lines = [json.loads(line) for line in stream]
    assert [(line["scheme"], line["tls"]) for line in lines] == [("https", name)] * 2
