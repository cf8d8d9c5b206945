"""What the benchmark ran on, and which core does what."""

import os
import platform
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Core numbers: `proxy` for the proxy under test, `load` for wrk and the backend."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        return self.proxy == self.load


def choose_cores() -> Cores:
    """The first and the last core that this process may use; on a machine with one core they are the same."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(proxy=allowed[0], load=allowed[-1])


def describe(cores: Cores) -> dict[str, object]:
    """What a reader needs to judge the figures."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    mhz = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo, re.MULTILINE)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "mhz": float(mhz.group(1)) if mhz else None,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pinning": asdict(cores),
        "load_average_at_start": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def other_work(seconds: float = 1.0) -> float:
    """Cores' worth of CPU that the machine is using right now, before the benchmark adds any."""
    before = _busy()
    time.sleep(seconds)
    return (_busy() - before) / os.sysconf("SC_CLK_TCK") / seconds


def _busy() -> int:
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return user + nice + system + irq + softirq
