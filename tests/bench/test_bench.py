"""A run of the benchmark of one second with one peer writes figures that make sense. It is no measurement."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.api import change_rows
from bench.report import MARKS, distribution, write_into
from bench.throughput import Sample, ratio, summary

ROOT = Path(__file__).resolve().parents[2]


def sample(proxy: str, round_: int, cpu_us: float) -> Sample:
    """A sample in which only the CPU matters."""
    return Sample(proxy, "small", round_, 100, 0, 50.0, cpu_us, 0.5, cpu_us, 0.5, 900, 2000, 1, 100, 0)


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    samples = [sample("nginx", n, cpu) for n, cpu in enumerate((10.0, 20.0, 40.0))]
    samples += [sample("wakegate", n, cpu) for n, cpu in enumerate((15.0, 40.0, 60.0))]
    found = ratio(samples, "small", "wakegate", "nginx")
    assert found is not None
    assert (found.median, found.low, found.high) == (1.5, 1.5, 2.0)
    assert ratio(samples, "small", "wakegate", "haproxy") is None


def test_summary_sums_what_is_counted_and_takes_medians_of_what_is_measured() -> None:
    [row] = summary([sample("nginx", n, cpu) for n, cpu in enumerate((1.0, 2.0, 9.0))])
    assert row["cpu_us"] == 2.0
    assert (row["requests"], row["log_lines"], row["upstream_connections"]) == (300, 300, 3)


def test_changes_are_told_by_medians_of_the_rounds() -> None:
    costs = [(10.0, 12.0), (10.0, 30.0), (40.0, 44.0)]
    rounds = [{10: {"a change": {"worker": few}}, 1000: {"a change": {"worker": many}}} for few, many in costs]
    [row] = change_rows({"stored": 1000, "change_cpu_us": rounds})
    assert row == "| a change, worker | 10 | 30 | 1.20 (1.10-3.00) |"


def test_distribution() -> None:
    found = distribution([float(n) for n in range(100, 0, -1)])
    assert (found["n"], found["min"], found["p50"], found["p99"], found["max"]) == (100, 1.0, 51.0, 100.0, 100.0)


def test_figures_are_written_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}old\n{MARKS[1]}\nafter\n")
    about = {"time": "2030-01-02T03:04:05Z", "cpus": 2, "cpu": "A", "mhz": 2600.0, "kernel": "6", "python": "3.11"}
    write_into(page, {"machine": about, "other_work": 0.0}, ["| a table |"])
    text = page.read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n2030-01-02, 2 CPUs (A at 2.6 GHz)")
    assert text.endswith(f"| a table |\n\n{MARKS[1]}\nafter\n")
    assert "old" not in text


@pytest.mark.e2e
@pytest.mark.skipif(
    os.environ.get("CI") != "true" and shutil.which("wrk") is None, reason="wrk is missing; `make bench` installs it"
)
def test_a_short_run_writes_sane_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--rounds", "1", "--seconds", "3", "--peers", "nginx"]
    command += ["--only", "throughput", "--without-wakegate", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = tmp_path.iterdir()
    told = json.loads(file.read_text())
    assert told["missing"] == {}
    rows = {row["work"]: row for row in told["throughput"]["rows"]}
    assert set(rows) == {"small", "large", "tls", "handshake"}
    for row in rows.values():
        assert row["errors"] == 0
        assert row["log_missing"] == 0
        assert row["requests"] > 0
        assert row["cpu_us"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]
    assert rows["small"]["upstream_connections"] > 0  # all others go over the same ones
