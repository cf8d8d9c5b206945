"""`wakegate trust`: make the programs of this machine believe the development CA, or stop believing it.

Each system has a folder for certificates that its administrator trusts, and a program that has to be run when the
folder changed. The file's name carries the certificate's fingerprint: several CAs live side by side, and what is
removed is what was installed. Needs root; who isn't is told the command to give to sudo.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certs.authority import BadCertificate, is_authority

_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"  # not on everybody's PATH
_PATIENCE: Final = 120.0  # seconds for the system's program
_KEYCHAIN: Final = "/Library/Keychains/System.keychain"


class TrustError(Exception):
    """It can't be done; the text says what to do instead."""


@dataclass(frozen=True, slots=True)
class TrustStore:
    """A system's folder of trusted certificates, and the command that takes a change of it in.

    `removing`: what the command needs beyond, to notice that something is gone.
    """

    folder: Path
    suffix: str
    command: tuple[str, ...]
    removing: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return self.folder.is_dir() and self.program is not None

    @property
    def program(self) -> str | None:
        return shutil.which(self.command[0], path=os.environ.get("PATH", os.defpath) + ":" + _SBIN)


SYSTEMS: Final = (
    TrustStore(Path("/etc/pki/ca-trust/source/anchors"), ".pem", ("update-ca-trust", "extract")),  # RHEL, Fedora
    TrustStore(Path("/etc/ca-certificates/trust-source/anchors"), ".crt", ("update-ca-trust",)),  # Arch
    TrustStore(Path("/etc/pki/trust/anchors"), ".pem", ("update-ca-certificates",)),  # SUSE
    # Debian, Ubuntu, Alpine; without --fresh Debian's leaves the link to what was removed (measured with 20230311)
    TrustStore(Path("/usr/local/share/ca-certificates"), ".crt", ("update-ca-certificates",), ("--fresh",)),
)


@dataclass(frozen=True, slots=True)
class Root:
    """The certificate of a CA: its file (absolute), its text (PEM), SHA-256 over its DER form in hex."""

    file: Path
    text: str
    fingerprint: str

    @classmethod
    def read(cls, file: Path) -> Root:
        """Raises TrustError."""
        try:
            text = file.read_text("ascii")
            if text.count("BEGIN CERTIFICATE") != 1:
                raise BadCertificate("not one")
            if not is_authority(text):
                raise TrustError(f"{file} is not the certificate of a CA: whoever trusts it gains nothing")
            der = ssl.PEM_cert_to_DER_cert(text.strip())
        except FileNotFoundError:
            raise TrustError(f"{file}: no such file; `wakegate serve` makes it, or name another with --ca") from None
        except OSError as error:
            raise TrustError(f"{file}: {error.strerror}") from None
        except (BadCertificate, ValueError):
            raise TrustError(f"{file} does not hold one certificate in PEM form") from None
        return cls(file.absolute(), text, hashlib.sha256(der).hexdigest())

    def place(self, store: TrustStore) -> Path:
        return store.folder / f"wakegate-{self.fingerprint[:16]}{store.suffix}"


def find_store(systems: Sequence[TrustStore] = SYSTEMS) -> TrustStore | None:
    return next((system for system in systems if system.usable), None)


def install(root: Root, store: TrustStore | None, repeat: str) -> str:
    """Returns what was done. `repeat`: this command, as to be given to sudo. Raises TrustError."""
    store = _usable(store, root, f"sudo security add-trusted-cert -d -r trustRoot -k {_KEYCHAIN}")
    place = root.place(store)
    before = place.read_text() if place.exists() else None
    if before == root.text:
        return f"{root.file} was trusted before: {place}"
    try:
        place.write_text(root.text)
        place.chmod(0o644)
    except PermissionError:
        raise _needs_root(place, repeat) from None
    except OSError as error:
        raise TrustError(f"{place}: {error.strerror}") from None
    try:
        _run(store, store.command)
    except TrustError:
        place.unlink()
        raise
    return (
        f"{root.file} is trusted on this machine: {place}\n"
        "Firefox, Java, Node.js and Python's certifi have stores of their own: give them that file"
    )


def uninstall(root: Root, store: TrustStore | None, repeat: str) -> str:
    """The inverse. Raises TrustError."""
    store = _usable(store, root, "sudo security remove-trusted-cert -d")
    place = root.place(store)
    try:
        place.unlink()
    except FileNotFoundError:
        return f"{root.file} is not installed in {store.folder}"
    except PermissionError:
        raise _needs_root(place, repeat) from None
    except OSError as error:
        raise TrustError(f"{place}: {error.strerror}") from None
    _run(store, (*store.command, *store.removing))
    return f"{root.file} is not trusted any more: {place} was removed"


def _usable(store: TrustStore | None, root: Root, on_macos: str) -> TrustStore:
    if store is not None:
        return store
    if sys.platform == "darwin":
        raise TrustError(f"on macOS run: {on_macos} {shlex.quote(str(root.file))}")
    raise TrustError(
        "no trust store of a known system is here (update-ca-certificates, update-ca-trust; Debian: apt-get install "
        f"ca-certificates): name the file to each client, as in curl --cacert {shlex.quote(str(root.file))}"
    )


def _needs_root(place: Path, repeat: str) -> TrustError:
    return TrustError(f"{place} is root's to change; run: sudo {repeat}")


def _run(store: TrustStore, command: Sequence[str]) -> None:
    """Run the system's program. Raises TrustError."""
    program = store.program or command[0]
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrustError(f"{program}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise TrustError(f"{program} failed with status {done.returncode}: {said}")
