"""Ports that only one namespace may bind: the kernel refuses them to every other (law 8).

A replica's port is free for whoever comes first while its server is down, and a tenant who binds the whole range keeps
all others from starting. So a program in the kernel is asked at each bind(2) in our cgroup: it lets the uids of this
node's namespaces bind a port of the range only where that port was given to that uid (EPERM otherwise), and refuses
nothing else. It is 26 instructions of eBPF, attached as systemd attaches those of `SocketBindDeny=`, and lives as long
as the descriptors here: a control that was killed takes it along, and the next brings its own.

Landlock could refuse the same without privileges, but has only lists of ports that are allowed, 47,000 for each
replica: 110 ms of CPU (measured), some 3 MiB, and Multipath TCP passes by it.

Needs Linux 5.7, cgroup v2 and CAP_BPF with CAP_NET_ADMIN (or CAP_SYS_ADMIN); raises `OSError` without.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_NUMBERS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}  # of the system call bpf, all little-endian machines
_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _LINK_CREATE = 0, 2, 3, 5, 28
_HASH: Final = 1  # BPF_MAP_TYPE_HASH
_ON_DEMAND: Final = 1  # BPF_F_NO_PREALLOC: memory for the entries that there are
_SOCK_ADDR: Final = 18  # BPF_PROG_TYPE_CGROUP_SOCK_ADDR
_BINDS: Final = (8, 9)  # BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND
_UIDS: Final = 65_536  # of namespaces at most
_ATTRIBUTES: Final = 128  # bytes: more than the calls below have, the rest is zero

_libc = ctypes.CDLL(None, use_errno=True)

Instruction = tuple[int, int, int, int | str, int]
"""Operation, destination, source, offset (or the label of a jump), immediate: struct bpf_insn."""


class Reservations:
    """Those of one node; ports of `ports` are refused to the uids that were `admit`ted until they are given to one."""

    def __init__(self, ports: range, cgroup: Path) -> None:
        self._descriptors: list[int] = []
        try:
            self._uids = self._keep(_new_map(_UIDS))
            self._ports = self._keep(_new_map(len(ports)))
            group = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for hook in _BINDS:
                    program = self._keep(_load(_program(ports, self._uids, self._ports), hook))
                    self._keep(_bpf(_LINK_CREATE, "=IIII", program, group, hook, 0))
            finally:
                os.close(group)
        except OSError:
            self.close()
            raise

    def admit(self, uid: int) -> None:
        """A namespace's: from now on it binds only what is given to it. Raises `OSError`."""
        _set(self._uids, uid, 1)

    def give(self, port: int, uid: int) -> None:
        """Raises `OSError`."""
        _set(self._ports, port, uid)

    def take_back(self, port: int) -> None:
        """Also one that was not given."""
        key = ctypes.c_uint32(port)
        try:
            _bpf(_MAP_DELETE, "=IxxxxQ", self._ports, ctypes.addressof(key))
        except FileNotFoundError:
            return

    def close(self) -> None:
        """Nothing is refused any more."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _keep(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor


def own_cgroup() -> Path:
    """The directory of our cgroup, v2. Raises `OSError`."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        fields = (line.split() for line in mounts)
        roots = [Path(found[4]) for found in fields if found[found.index("-") + 1] == "cgroup2"]
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        paths = [line.strip().removeprefix("0::/") for line in file if line.startswith("0::/")]
    if not roots or not paths:
        raise OSError(errno.ENOENT, "there is no cgroup v2")
    return roots[0] / paths[0]


def _program(ports: range, uids: int, given: int) -> Sequence[Instruction | str]:
    """What is asked at each bind: 1 lets it happen. Labels are strings that end with a colon."""
    load, store, move, jump_below, jump_above, jump_equal = 0x61, 0x63, 0xBF, 0xA5, 0x25, 0x1D
    jump_zero, call, leave, set_, add = 0x15, 0x85, 0x95, 0xB7, 0x07
    uid_at, port_at = -4, -8  # on the stack, below r10

    def look_up(table: int, key_at: int) -> list[Instruction | str]:
        """r0: the address of the value, or zero."""
        return [
            (0x18, 1, 1, 0, table),  # r1 = the map of this descriptor, in two places
            (0, 0, 0, 0, 0),
            (move, 2, 10, 0, 0),
            (add, 2, 0, 0, key_at),
            (call, 0, 0, 0, 1),  # bpf_map_lookup_elem
        ]

    return [
        (load, 7, 1, 24, 0),  # r7 = bpf_sock_addr.user_port
        (0xDC, 7, 0, 0, 16),  # from network order
        (jump_below, 7, 0, "allow", ports.start),
        (jump_above, 7, 0, "allow", ports.stop - 1),
        (call, 0, 0, 0, 15),  # r0 = bpf_get_current_uid_gid
        (0xBC, 8, 0, 0, 0),  # r8 = its lower half
        (store, 10, 8, uid_at, 0),
        (store, 10, 7, port_at, 0),
        *look_up(uids, uid_at),
        (jump_zero, 0, 0, "allow", 0),
        *look_up(given, port_at),
        (jump_zero, 0, 0, "refuse", 0),
        (load, 0, 0, 0, 0),
        (jump_equal, 0, 8, "allow", 0),
        "refuse:",
        (set_, 0, 0, 0, 0),
        (leave, 0, 0, 0, 0),
        "allow:",
        (set_, 0, 0, 0, 1),
        (leave, 0, 0, 0, 0),
    ]


def _assembled(program: Sequence[Instruction | str]) -> bytes:
    labels: dict[str, int] = {}
    instructions: list[Instruction] = []
    for line in program:
        if isinstance(line, str):
            labels[line.removesuffix(":")] = len(instructions)
        else:
            instructions.append(line)
    return b"".join(_encoded(line, number, labels) for number, line in enumerate(instructions))


def _encoded(line: Instruction, number: int, labels: Mapping[str, int]) -> bytes:
    operation, destination, source, offset, immediate = line
    jump = labels[offset] - number - 1 if isinstance(offset, str) else offset
    return struct.pack("=BBhi", operation, source << 4 | destination, jump, immediate)


def _load(program: Sequence[Instruction | str], hook: int) -> int:
    code, licence = _assembled(program), b"GPL\0"
    held = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(licence, len(licence))
    where = (ctypes.addressof(held[0]), ctypes.addressof(held[1]))
    return _bpf(_PROG_LOAD, "=IIQQIIQII16sII", _SOCK_ADDR, len(code) // 8, *where, 0, 0, 0, 0, 0, b"wakegate", 0, hook)


def _new_map(entries: int) -> int:
    return _bpf(_MAP_CREATE, "=IIIII", _HASH, 4, 4, entries, _ON_DEMAND)


def _set(table: int, key: int, value: int) -> None:
    held = ctypes.c_uint32(key), ctypes.c_uint32(value)
    _bpf(_MAP_UPDATE, "=IxxxxQQQ", table, ctypes.addressof(held[0]), ctypes.addressof(held[1]), 0)


def _bpf(command: int, layout: str, *values: int | bytes) -> int:
    """bpf(2). Raises `OSError`."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    attributes = ctypes.create_string_buffer(struct.pack(layout, *values), _ATTRIBUTES)
    result: int = _libc.syscall(number, command, attributes, _ATTRIBUTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
