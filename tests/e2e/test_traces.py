"""Traces of a real node: configured by the environment alone, sent to a collector on a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_node import Node, eventually
from scenes import deploy, host

from tests.gateway.otlp_collector import Collector, plain

pytestmark = pytest.mark.e2e

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.close()


def test_a_cold_start_is_one_trace(make_node: Callable[..., Node], collector: Collector) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    node = make_node(workers=1, options=["--idle-timeout", "1"], env=env).start()
    deploy(node, "acme", "web", min_replicas=0)
    node.wait_status("acme", "web", "stopped", 60)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert node.request(host("acme", "web"), "/x?q=1", headers=headers).status == 200
    collector.wait(lambda found: len(found.spans) >= 3)
    span, hold, connect = [one for one in collector.spans if one.trace_id.hex() == TRACE]
    assert [span.name, hold.name, connect.name] == ["GET", "hold", "connect"]
    assert span.parent_span_id.hex() == PARENT
    assert {hold.parent_span_id, connect.parent_span_id} == {span.span_id}
    told = plain(span.attributes)
    assert (told["wakegate.service"], told["url.path"], told["http.response.status_code"]) == ("acme/web", "/x", 200)
    assert {resource["service.name"] for resource in collector.resources} == {"wakegate"}
    assert node.stop() == 0
    assert "traces" not in node.said


def test_the_last_spans_of_a_worker_are_sent_when_it_ends(
    make_node: Callable[..., Node], collector: Collector, store_url: str
) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    node = make_node(workers=1, options=["--role", "gateway", "--redis", store_url], env=env).start()
    for number in range(5):
        assert node.request("nobody.apps.localhost", f"/{number}").status == 404
    assert node.stop() == 0
    assert sorted(plain(span.attributes)["url.path"] for span in collector.spans) == [f"/{at}" for at in range(5)]


def test_no_collector_is_told_and_does_no_harm(make_node: Callable[..., Node]) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.1",
    }
    node = make_node(workers=1, env=env).start()
    for _ in range(5):
        assert node.request("nobody.apps.localhost").status == 404
    eventually(lambda: "traces can't be exported, they are dropped" in node.said, what="the operator is told")
    eventually(lambda: b"\nwakegate_spans_dropped_total 5.0\n" in node.api("GET", "/metrics").body, what="counted")
    assert node.stop() == 0
    assert "Traceback" not in node.said


def test_without_the_extra_one_line_says_what_to_install(
    make_node: Callable[..., Node], store_url: str, tmp_path: Path
) -> None:
    """A package of that name that can't be imported stands for one that is not installed."""
    (tmp_path / "opentelemetry").mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'opentelemetry'\", name='opentelemetry')\n"
    (tmp_path / "opentelemetry" / "__init__.py").write_text(missing)
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(tmp_path)}
    node = make_node(workers=1, options=["--role", "gateway", "--redis", store_url], env=env).start()
    told = [line for line in node.lines() if "traces" in line]
    assert told == ["no traces are exported: opentelemetry is not installed: pip install 'wakegate[otel]'"]
    assert node.lines().index(told[0]) < node.lines().index("ready")
    assert node.request("nobody.apps.localhost").status == 404
