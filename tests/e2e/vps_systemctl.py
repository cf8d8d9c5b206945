#!/usr/bin/env python3
"""`systemctl enable --now UNIT` where no systemd runs: reads the unit file and does what it says, as far as it says
who runs what with which rights and files (systemd.exec(5), systemd.service(5)).

Known are User, Group, ExecStart, Environment, EnvironmentFile, StateDirectory, ConfigurationDirectory, UMask,
WorkingDirectory, LimitNOFILE, AmbientCapabilities, CapabilityBoundingSet, NoNewPrivileges, ProtectSystem=strict,
ProtectHome, PrivateTmp, drop-ins, and Type=notify: it returns once READY=1 has come. Output goes to
/var/log/units/NAME.log.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

UNITS = Path("/etc/systemd/system")
NOTIFY = Path("/run/notify")
LOGS = Path("/var/log/units")


class Unit:
    """The settings of the section [Service], later files after earlier ones."""

    def __init__(self, name: str) -> None:
        self.name = name
        files = [UNITS / f"{name}.service", *sorted((UNITS / f"{name}.service.d").glob("*.conf"))]
        self._settings = [setting for file in files for setting in _service(file.read_text())]

    def all(self, key: str) -> list[str]:
        return [value for name, value in self._settings if name == key]

    def one(self, key: str, default: str = "") -> str:
        return (self.all(key) or [default])[-1]

    def on(self, key: str) -> bool:
        return self.one(key) in ("yes", "true", "on", "1", "strict")

    def environment(self) -> dict[str, str]:
        """Of Environment=, then of the files, which count over it."""
        words = [word for line in self.all("Environment") for word in shlex.split(line)]
        for file in self.all("EnvironmentFile"):
            with contextlib.suppress(FileNotFoundError) if file.startswith("-") else contextlib.nullcontext():
                words += shlex.split(Path(file.removeprefix("-")).read_text(), comments=True)
        return dict(word.split("=", 1) for word in words)


def _service(text: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and line[0] not in "#;":
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()


def start(unit: Unit) -> None:
    user = pwd.getpwnam(unit.one("User", "root"))
    state = Path("/var/lib") / unit.one("StateDirectory", unit.name)
    state.mkdir(mode=0o700, exist_ok=True)
    os.chown(state, user.pw_uid, user.pw_gid)
    configuration = Path("/etc") / unit.one("ConfigurationDirectory", unit.name)
    configuration.mkdir(mode=0o755, exist_ok=True)
    limit = min(int(unit.one("LimitNOFILE", "1048576")), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell,
        "STATE_DIRECTORY": str(state),
        "CONFIGURATION_DIRECTORY": str(configuration),
        **unit.environment(),
        "NOTIFY_SOCKET": str(NOTIFY),
    }
    NOTIFY.unlink(missing_ok=True)
    LOGS.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, (LOGS / f"{unit.name}.log").open("ab") as log:
        told.bind(str(NOTIFY))
        NOTIFY.chmod(0o777)
        process = subprocess.Popen(
            [*_confined(unit, state), *_as_user(unit), *shlex.split(unit.one("ExecStart"))],
            cwd=unit.one("WorkingDirectory", "/"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            umask=int(unit.one("UMask", "0022"), 8),
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        )
        _wait_ready(process, told, float(unit.one("TimeoutStartSec", "90")))


def _confined(unit: Unit, state: Path) -> list[str]:
    """What it sees of the file system, in a mount namespace of its own."""
    steps = [f"mount --bind {state} {state}"]
    if unit.on("PrivateTmp"):
        steps += [f"mount -t tmpfs -o mode=1777 tmpfs {place}" for place in ("/tmp", "/var/tmp")]
    if unit.on("ProtectHome"):
        steps += [f"mount -t tmpfs -o mode=000 tmpfs {place}" for place in ("/home", "/root")]
    if unit.one("ProtectSystem") == "strict":
        steps.append("mount -o remount,bind,ro /")
    return ["unshare", "--mount", "sh", "-euc", "; ".join([*steps, 'cd "$PWD"', 'exec "$@"']), "sh"]


def _as_user(unit: Unit) -> list[str]:
    user = unit.one("User", "root")
    kept = {word.removeprefix("CAP_").lower() for word in unit.one("AmbientCapabilities").split()}
    bound = {word.removeprefix("CAP_").lower() for word in unit.one("CapabilityBoundingSet").split()}
    rights = [f"--{which}-caps={_only(kept)}" for which in ("inh", "ambient")] + [f"--bounding-set={_only(bound)}"]
    no_new = ["--no-new-privs"] if unit.on("NoNewPrivileges") else []
    group = unit.one("Group", user)
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", *rights, *no_new]


def _only(names: set[str]) -> str:
    return ",".join(["-all", *(f"+{name}" for name in sorted(names))])


def _wait_ready(process: subprocess.Popen[bytes], told: socket.socket, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    told.settimeout(0.2)
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in told.recv(4096).split(b"\n"):
                return
        if process.poll() is not None:
            sys.exit(f"the unit's process ended with {process.returncode}")
    sys.exit(f"the unit was not ready within {timeout:g} s")


def main() -> None:
    match sys.argv[1:]:
        case ["enable", "--now", name]:
            start(Unit(name.removesuffix(".service")))
        case _:
            sys.exit(f"not known here: {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
