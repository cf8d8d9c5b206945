"""NVML through nvidia-ml-py: against a driver's library of our own, without a driver, without a library; and one that
hangs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from activator.gpu import NotMeasured
from activator.gpu.nvml import Nvml

HERE = Path(__file__).parent
READ = """
import asyncio, json
from activator.gpu import NotMeasured
from activator.gpu.nvml import Nvml
async def main():
    nvml = Nvml()
    for _ in range(2):
        try:
            print(json.dumps(await nvml.read()))
        except NotMeasured as error:
            print(error)
asyncio.run(main())
"""


def lacking(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libnvidia-ml.so.1."""
    compiler = shutil.which("gcc")
    if compiler is None:
        lacking("gcc is missing: apt-get install gcc libc6-dev")
    if importlib.util.find_spec("pynvml") is None:
        lacking("nvidia-ml-py is missing: make setup")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Werror", "-o", library, HERE / "fake_nvml.c"], check=True)
    return folder


def read(folder: Path, **env: str) -> list[str]:
    """What a process of its own says that it reads, twice."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), **env}
    done = subprocess.run([sys.executable, "-c", READ], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_all_gpus_of_the_machine(driver: Path) -> None:
    assert read(driver, GPUS="97,0") == ['{"0": 97.0, "GPU-0": 97.0, "1": 0.0, "GPU-1": 0.0}'] * 2


def test_a_gpu_that_is_lost_or_cut_into_instances_hides_no_other(driver: Path) -> None:
    assert read(driver, GPUS="lost,mig,55") == ['{"2": 55.0, "GPU-2": 55.0}'] * 2
    assert all("only DCGM" in line for line in read(driver, GPUS="mig"))


def test_without_a_driver_there_is_no_measurement(driver: Path, tmp_path: Path) -> None:
    assert read(driver) == ["the driver can't be asked: Driver Not Loaded"] * 2
    assert all("NVML Shared Library Not Found" in line for line in read(tmp_path))


async def test_without_the_package_the_fix_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NotMeasured, match=r"pip install 'wakegate\[gpu\]'"):
        await Nvml().read()


async def test_whatever_goes_wrong_was_not_measured() -> None:
    def broken() -> Any:
        raise ZeroDivisionError("oh")

    with pytest.raises(NotMeasured, match="oh"):
        await Nvml(broken).read()


async def test_a_driver_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activator.gpu.nvml._TIMEOUT", 0.05)
    answers = threading.Event()
    library: Any = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=answers.wait,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=12, memory=3),
    )
    nvml = Nvml(lambda: library)
    with pytest.raises(NotMeasured, match="did not answer"):
        await nvml.read()
    with pytest.raises(NotMeasured, match="does not answer"):
        await nvml.read()
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "nvml":
            thread.join()
    monkeypatch.undo()
    assert await nvml.read() == {"0": 12, "GPU-0": 12}
    await nvml.close()
