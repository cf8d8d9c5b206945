"""A server that a reader of the documents would rent, and the internet that it is in: namespaces of this machine.

    with Internet() as internet, Vps() as vps:
        internet.connect(vps)
        vps.run("echo hello >/etc/motd")            # as root there: the files are a copy of ours that goes with it
        internet.run("curl http://www.example.com/", {})

`Internet` is a network with the routes to the server and an address for a DNS server; who works in it asks that one.
`Vps` has its own network, processes and mounts: all of this machine's files below changes that are kept in memory.
Everything in them ends with them, and with the process that made them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

IPV4, IPV6 = "203.0.113.10", "2001:db8::10"  # of the server (RFC 5737, RFC 3849)
DNS, CA = "198.51.100.53", "198.51.100.14"  # in the internet
PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "curl")

_GATEWAY4, _GATEWAY6 = "203.0.113.1", "2001:db8::1"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CLONE_NEWNET = 0x40000000
# Reaps whoever is left behind, and ends with its standard input, which we hold: with it ends every process beside it.
_INIT = (
    "exec python3 -c 'import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
    ' print("up", flush=True); sys.stdin.read()\''
)
_INTERNET = f"""
mount --bind "$1" "$(realpath /etc/resolv.conf)"
mount -t proc proc /proc
{_INIT}
"""
# What a fresh server does not have is taken away from the copy. The overlay's changes are in a tmpfs of this namespace.
_VPS = """
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" "$1/root"
cd "$1/root"
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
for place in run tmp home srv; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
chmod 1777 tmp
rm -rf etc/wakegate opt/wakegate var/lib/wakegate usr/local/src/wakegate usr/local/bin/wakegate
rm -rf etc/systemd/system/wakegate.service* etc/gitconfig root/.gitconfig root/.config/git etc/resolv.conf
exec chroot . sh -euc "$2"
"""


class Refused(Exception):
    """This machine does not let us make them; what is missing."""


class Machine:
    """Namespaces for network, mounts and processes, held by their first process. Raises Refused."""

    def __init__(self, script: str, *arguments: str) -> None:
        spaces = ("--net", "--mount", "--pid", "--ipc", "--uts")
        self._holder = subprocess.Popen(
            ["unshare", *spaces, "--fork", "--kill-child", "sh", "-euc", script, "sh", *arguments],
            env={"PATH": _PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "up\n":
            self.close()
            raise Refused("namespaces with an overlay of the file system")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text()
        self.pid = int(children.split()[0])

    def close(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(30)
        self._holder.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in its network, and so are the sockets and processes that it makes."""
        ours, theirs = (os.open(f"/proc/{who}/ns/net", os.O_RDONLY) for who in ("thread-self", self.pid))
        try:
            _set_network(theirs)
            yield
        finally:
            _set_network(ours)
            os.close(ours)
            os.close(theirs)

    def ip(self, *commands: str) -> None:
        """Commands of ip(8) in its network."""
        with self.entered():
            for command in commands:
                subprocess.run(["ip", *command.split()], check=True)


class Internet(Machine):
    """Its own address is the server's gateway, and visitors come from there."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="wg-net-", dir="/tmp"))
        (self._directory / "resolv.conf").write_text(f"nameserver {DNS}\n")
        super().__init__(_INTERNET, str(self._directory / "resolv.conf"))

    def __enter__(self) -> Self:
        self.ip("link set lo up", f"address add {DNS}/32 dev lo", f"address add {CA}/32 dev lo")
        return self

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def connect(self, server: Machine) -> None:
        self.ip(
            f"link add server type veth peer name eth0 netns {server.pid}",
            f"address add {_GATEWAY4}/24 dev server",
            f"-6 address add {_GATEWAY6}/64 dev server nodad",
            "link set server up",
        )
        server.ip(
            "link set lo up",
            f"address add {IPV4}/24 dev eth0",
            f"-6 address add {IPV6}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {_GATEWAY4}",
            f"-6 route add default via {_GATEWAY6}",
        )

    def run(self, script: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """A visitor's shell. `env`: what it has beside a PATH."""
        command = ["nsenter", "--target", str(self.pid), "--mount", "--net", "bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(
            command, env={"PATH": _PATH, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )


class Vps(Machine):
    """The server."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="wg-vps-", dir="/tmp"))
        super().__init__(_VPS, str(self._directory), _INIT)
        self.write("/run/shell", "cd /root; umask 022\n")
        self.export({"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"})

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def path(self, name: str) -> Path:
        """A file of it as this process can reach it."""
        return Path(f"/proc/{self.pid}/root{name}")

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def export(self, variables: Mapping[str, str]) -> None:
        """In root's shells from now on."""
        with self.path("/run/shell").open("a") as shell:
            shell.write(f"export {shlex.join(f'{name}={value}' for name, value in variables.items())}\n")

    def trust(self, roots: str) -> None:
        """As Debian trusts the CAs of the world."""
        self.write("/usr/local/share/ca-certificates/test.crt", roots)
        done = self.run("update-ca-certificates")
        assert done.returncode == 0, done.stdout

    def log(self) -> str:
        """What its units said."""
        return "".join(file.read_text(errors="replace") for file in self.path("/var/log/units").glob("*.log"))

    def run(self, script: str, *, online: bool = False) -> subprocess.CompletedProcess[str]:
        """The next lines in root's shell: directory and exported variables are as the ones before left them.

        `online`: in this machine's network instead, where packages come from.
        """
        ours = {name: value for name, value in os.environ.items() if re.match(r"PIP_|.*_proxy$", name, re.IGNORECASE)}
        self.write("/etc/resolv.conf", Path("/etc/resolv.conf").read_text() if online else f"nameserver {DNS}\n")
        self.write("/run/block", f". /run/shell\ntrap {shlex.quote(_remember(ours))} EXIT\n{script}")
        spaces = ["--mount", "--pid", "--ipc", "--uts", "--root", "--wd", *([] if online else ["--net"])]
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), *spaces, "bash", "-euo", "pipefail", "/run/block"],
            env={"PATH": _PATH, **(ours if online else {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def _remember(but: Iterable[str]) -> str:
    """What a shell does at its end, so that the next one goes on where it was."""
    return f"unset {shlex.join(['_', *but])}; {{ printf 'cd %q\\n' \"$PWD\"; export -p; }} >/run/shell"


def _set_network(descriptor: int) -> None:
    """setns(2)."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
