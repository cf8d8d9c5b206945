"""What a DCGM exporter says, in its own format: whole GPUs, instances, blanks; and one that fails, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from activator.gpu import NotMeasured, Utilizations
from activator.gpu.dcgm import DcgmExporter, read_exposition

HERE = Path(__file__).parent
T4 = (HERE / "dcgm_t4.txt").read_text()
A100 = (HERE / "dcgm_a100_mig.txt").read_text()
NOW = 1_732_800_000.0


def test_whole_gpus_by_number_and_uuid() -> None:
    assert read_exposition(T4, NOW) == {
        "0": 97,
        "GPU-34319582-d595-d1c7-d1d2-179bcfa61660": 97,
        "1": 38,
        "GPU-5c1d5a4e-0f3e-8a4f-6e0c-3d7b0a2a9b11": 38,
        "2": 0,
        "GPU-9d1a2b3c-77aa-4d7e-b0f1-5d6e7f801234": 0,
    }


def test_without_the_percentage_the_ratio_counts() -> None:
    text = "".join(line + "\n" for line in T4.splitlines() if "DEV_GPU_UTIL" not in line)
    found = read_exposition(text, NOW)
    assert (found["0"], found["1"], found["2"]) == (pytest.approx(96.341), pytest.approx(37.9822), 0)


def test_instances_shared_gpus_and_blanks() -> None:
    found = read_exposition(A100, NOW)
    # three of seven slices at 90 %, three idle, one at 25 %; the zeros of its percentage mean nothing
    assert found["0"] == found["GPU-a810a1fc-9f46-0e6f-5cef-bf34c2248e12"] == pytest.approx((3 * 90 + 25) / 7)
    assert found["1"] == 64  # told once for each pod that shares it
    assert found["2"] == 100  # its percentage is DCGM's blank; the ratio was rounded up
    assert "3" not in found  # NaN twice


def test_the_ratio_of_a_whole_gpu_counts_over_that_of_its_instances() -> None:
    text = (
        'DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a"} 0.5\n'
        'DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.5gb",GPU_I_ID="13"} 0.99\n'
    )
    assert read_exposition(text, NOW) == {"0": 50, "GPU-a": 50}


def test_old_samples_were_not_measured() -> None:
    fresh, old = round((NOW - 5) * 1000), round((NOW - 600) * 1000)
    text = f'DCGM_FI_DEV_GPU_UTIL{{gpu="0"}} 7 {fresh}\nDCGM_FI_DEV_GPU_UTIL{{gpu="1"}} 8 {old}\n'
    assert read_exposition(text, NOW) == {"0": 7}


def test_a_number_of_two_nodes_is_nobodys() -> None:
    text = "".join(
        f'DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="GPU-{host}",Hostname="{host}"}} {value}\n'
        for host, value in (("a", 10), ("b", 90))
    )
    assert read_exposition(text, NOW) == {"GPU-a": 10, "GPU-b": 90}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n",
        'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 50\n',
        "DCGM_FI_DEV_GPU_UTIL 50\n",
        'DCGM_FI_DEV_GPU_UTIL{gpu="0"} -1\n',
        'DCGM_FI_DEV_GPU_UTIL{gpu="0"} +Inf\n',
        'DCGM_FI_DEV_GPU_UTIL{gpu="0"\nDCGM_FI_DEV_GPU_UTIL{gpu="0} 1\nDCGM_FI_DEV_GPU_UTIL{gpu="0"} x\n',
        'DCGM_FI_DEV_GPU_UTIL_NEW{gpu="0"} 50\n',
    ],
)
def test_what_tells_of_no_gpu(text: str) -> None:
    with pytest.raises(NotMeasured, match="DCGM_FI_DEV_GPU_UTIL"):
        read_exposition(text, NOW)


def test_a_line_that_is_broken_hides_no_other() -> None:
    assert read_exposition('DCGM_FI_DEV_GPU_UTIL{gpu="0" 1\nDCGM_FI_DEV_GPU_UTIL{gpu="1"} 2\n', NOW) == {"1": 2}


@given(st.lists(st.text() | st.sampled_from(T4.splitlines() + A100.splitlines())), st.integers(0, 200))
def test_whatever_comes_is_percent_or_nothing(lines: list[str], cut: int) -> None:
    text = "\n".join(line[:cut] if n % 3 else line for n, line in enumerate(lines))
    try:
        found = read_exposition(text, NOW)
    except NotMeasured:
        return
    assert found
    assert all(0 <= percent <= 100 for percent in found.values())


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Answer], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """The URL of what answers so."""
    runners = []

    async def start(answer: Answer) -> str:
        app = web.Application()
        app.router.add_get("/metrics", answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"

    yield start
    for runner in runners:
        await runner.cleanup()


async def read(url: str) -> Utilizations:
    exporter = DcgmExporter(url)
    try:
        return await exporter.read()
    finally:
        await exporter.close()


async def test_an_exporter_over_http(serve: Serve) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(text=T4, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    assert (await read(await serve(answer)))["0"] == 97


async def test_what_is_no_answer(serve: Serve) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    async def redirect(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://169.254.169.254/")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"#" * 65_536 + b"\n")
        return response

    for answer, why in ((refuse, "answers 503"), (redirect, "answers 302"), (endless, "more than 4 MiB")):
        with pytest.raises(NotMeasured, match=why):
            await read(await serve(answer))


async def test_no_answer_in_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activator.gpu.dcgm._TIMEOUT", 0.2)

    over = asyncio.Event()

    async def silent(_: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    with pytest.raises(NotMeasured, match="did not answer"):
        await read(await serve(silent))
    over.set()


async def test_nobody_listens(unused_tcp_port: int) -> None:
    with pytest.raises(NotMeasured, match="can't be read"):
        await read(f"http://127.0.0.1:{unused_tcp_port}/metrics")
