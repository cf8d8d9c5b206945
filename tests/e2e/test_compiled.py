"""The compiled form of the data plane: a wheel is built as `make wheel` builds it, and passes the tests of the gateway.
Of the tests those are left out whose modules load nothing that is compiled.

The wheel is unpacked beside copies of the tests, in a directory without sources, so that nothing but the wheel can be
imported; a plugin of the inner pytest looks at what was.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("wakegate", "gateway", "activator", "certs", "control", "state")
HOT = set(re.findall(r'"(gateway/[\w/]+)\.py"', (ROOT / "setup.py").read_text()))
# Of modules that stay Python: their tests, run as they are, say all there is to say.
PLAIN = ("test_adoption", "test_cache", "test_reporter")

# Imported by the inner pytest before it collects anything.
PLUGIN = """
import importlib
for name in {names!r}:
    found = importlib.import_module(name).__file__
    assert found.startswith({site!r}) and found.endswith(".so"), found
import gateway.edge, state.models
for module in (gateway.edge, state.models):
    assert module.__file__.startswith({site!r}), module.__file__
"""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.xdist_group("compiled")]


def run(*command: str, cwd: Path, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | environment
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def needed() -> None:
    """Skip, or fail in CI, if a wheel can't be compiled here."""
    if shutil.which(os.environ.get("CC", "cc")) is None and shutil.which("gcc") is None:
        missing("a C compiler (apt-get install -y gcc libc6-dev)")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing("Python.h (apt-get install -y python3-dev)")
    for tool, least in (("setuptools", 77), ("mypy", 1), ("wheel", 0)):
        try:
            version = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            missing(f"{tool}, of the dev extra")
        if int(version.split(".")[0]) < least:
            missing(f"{tool} {least} (there is {version})")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel holds."""
    needed()
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    unwanted = shutil.ignore_patterns("__pycache__", "*.so")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=unwanted)
    shutil.copytree(ROOT / "examples", source / "examples", ignore=unwanted)
    for file in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / file, source)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation", "--no-deps")
    fast = {"WAKEGATE_COMPILE": "1", "WAKEGATE_COMPILE_LEVEL": "0"}
    run(*pip, "--disable-pip-version-check", "--wheel-dir", str(dist), ".", cwd=source, **fast)
    (wheel,) = dist.glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_every_hot_module_is_compiled(site: Path) -> None:
    compiled = {str(path.relative_to(site)).split(".")[0] for path in site.glob("gateway/**/*.so")}
    assert compiled == HOT


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_left_out_loads_nothing_compiled(name: str) -> None:
    script = f"import sys, {name}; print(*sys.modules)"
    path = f"{ROOT}:{ROOT / 'tests' / 'gateway'}"
    loaded = run(sys.executable, "-c", script, cwd=ROOT, PYTHONPATH=path).split()
    assert not {module.replace("/", ".") for module in HOT} & set(loaded)


def test_the_compiled_form_passes_the_tests_of_the_gateway(site: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "tests" / "gateway", tmp_path / "tests" / "gateway")
    for file in ("conftest.py", "pebble.py", "podman.py"):
        shutil.copy(ROOT / "tests" / file, tmp_path / "tests")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    names = sorted(name.replace("/", ".") for name in HOT)
    (plugins / "only_the_wheel.py").write_text(PLUGIN.format(names=names, site=str(site)))
    quick = ("-p", "no:cacheprovider", "-o", "asyncio_debug=false", "-n", "2", "--dist", "loadfile")
    command = (sys.executable, "-P", "-m", "pytest", "-q", "-p", "only_the_wheel", *quick)
    without = [f"--ignore=tests/gateway/{name}.py" for name in PLAIN]
    output = run(*command, *without, "tests/gateway", cwd=tmp_path, PYTHONPATH=f"{site}:{plugins}")
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None, output
    assert int(passed[1]) > 300
