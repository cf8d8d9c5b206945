"""What is shipped beside the code: lock files, Makefile, systemd unit. The image has its own end-to-end test."""

import configparser
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-runtime.lock", "requirements-build.lock")
PIN = re.compile(r"^([a-z0-9.-]+)==(\S+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / name).read_text()))


def normalised(requirement: str) -> str:
    """The project's name in a requirement, as lock files write it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group(0)).lower()


@pytest.mark.parametrize("lock", [*LOCKS, "requirements-fuzz.lock"])
def test_lock_names_no_place_and_hashes_everything(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|file:/|--find-links|--index-url|--extra-index-url|--trusted-host| @ ", text)
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert blocks
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_locks_agree() -> None:
    everything = pins("requirements.lock")
    for lock in LOCKS[1:]:
        assert pins(lock).items() <= everything.items()


def test_locks_cover_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {normalised(each) for each in project["dependencies"]} <= pins("requirements-runtime.lock").keys()
    assert {normalised(each) for each in extras["dev"] + extras["bench"]} <= pins("requirements.lock").keys()


def test_every_run_time_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in project["dependencies"]:
        assert re.search(rf"^\| {normalised(requirement)}\b", explained, re.MULTILINE), requirement


@pytest.mark.parametrize("target", ["demo", "test", "bench", "serve", "lock", "wheel", "image", "clean"])
def test_makefile_has_the_target_and_lists_it(target: str) -> None:
    if shutil.which("make") is None:
        missing("make")
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^make {target}\b", listed, re.MULTILINE)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / "packaging" / "wakegate.service")
    return parser["Service"]


def test_unit_says_what_operators_rely_on() -> None:
    service = unit()
    assert service["User"] == "wakegate"
    assert service["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert service["Delegate"] == "yes"
    assert service["StateDirectory"] == "wakegate"
    assert service["LimitNOFILE"] == "1048576"
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert service["ExecReload"].endswith("-HUP $MAINPID")


def test_unit_says_where_options_are_read() -> None:
    """The environment's file may be absent; a TOML file is read where WAKEGATE_CONFIG names it, and nowhere else."""
    text = (ROOT / "packaging" / "wakegate.service").read_text()
    assert unit()["EnvironmentFile"] == "-/etc/wakegate/environment"
    assert text.count("wakegate.toml") == text.count("WAKEGATE_CONFIG=/etc/wakegate/wakegate.toml") == 1


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing")
    copy = tmp_path / "wakegate.service"
    installed = (ROOT / "packaging" / "wakegate.service").read_text()
    copy.write_text(installed.replace("/opt/wakegate/bin/wakegate", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "wakegate.service" in line]
    assert (done.returncode, told) == (0, [])
