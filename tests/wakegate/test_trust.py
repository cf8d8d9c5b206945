"""`wakegate trust`: with the system's own program on folders of our own, and what it says when it can't."""

from __future__ import annotations

import shlex
import shutil
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from certs.authority import make_leaf, make_root
from state.ids import now_us
from tests.conftest import missing
from wakegate.cli import main
from wakegate.trust import SYSTEMS, Root, TrustError, TrustStore, find_store, install, uninstall

SIGNER = make_root(now_us())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(SIGNER.certificate)
    return path


def store_with(tmp_path: Path, *command: str) -> TrustStore:
    folder = tmp_path / "anchors"
    folder.mkdir()
    return TrustStore(folder, ".crt", command)


@pytest.fixture
def debian(tmp_path: Path) -> TrustStore:
    """`update-ca-certificates` itself, on folders below tmp_path."""
    if not shutil.which("update-ca-certificates", path="/usr/sbin:/usr/bin"):
        missing("update-ca-certificates (Debian: ca-certificates)")
    for name in ("etc", "hooks", "share"):
        (tmp_path / name).mkdir()
    places = {"--certsconf": "conf", "--certsdir": "share", "--localcertsdir": "anchors", "--etccertsdir": "etc"}
    options = [text for option, name in places.items() for text in (option, str(tmp_path / name))]
    (tmp_path / "share" / "other.crt").write_text(make_root(now_us()).certificate)  # no system trusts nobody
    (tmp_path / "conf").write_text("other.crt\n")
    store = store_with(tmp_path, "update-ca-certificates", *options, "--hooksdir", str(tmp_path / "hooks"))
    return replace(store, removing=("--fresh",))


def test_this_machines_store_is_among_the_known() -> None:
    debian = next(system for system in SYSTEMS if system.folder == Path("/usr/local/share/ca-certificates"))
    assert debian.removing == ("--fresh",)
    assert find_store() is None or find_store() in SYSTEMS


def trusted(bundle: Path) -> bool:
    return bundle.exists() and ssl.PEM_cert_to_DER_cert(SIGNER.certificate) in ssl_certificates(bundle)


def ssl_certificates(bundle: Path) -> list[bytes]:
    begin = "-----BEGIN CERTIFICATE-----"
    return [ssl.PEM_cert_to_DER_cert((begin + text).strip()) for text in bundle.read_text().split(begin)[1:]]


def test_debians_program_takes_it_in_and_out_again(tmp_path: Path, file: Path, debian: TrustStore) -> None:
    root, bundle = Root.read(file), tmp_path / "etc" / "ca-certificates.crt"
    assert "is trusted" in install(root, debian, "")
    assert trusted(bundle)
    assert "was trusted before" in install(root, debian, "")
    assert "not trusted any more" in uninstall(root, debian, "")
    assert not trusted(bundle)
    assert not list(debian.folder.iterdir())
    assert all(link.exists() for link in (tmp_path / "etc").iterdir())
    assert "is not installed" in uninstall(root, debian, "")


def test_several_cas_live_side_by_side(tmp_path: Path, file: Path) -> None:
    store = store_with(tmp_path, "true")
    other = tmp_path / "other.pem"
    other.write_text(make_root(now_us()).certificate)
    install(Root.read(file), store, "")
    install(Root.read(other), store, "")
    uninstall(Root.read(file), store, "")
    (left,) = store.folder.iterdir()
    assert left.read_text() == other.read_text()
    assert left.stat().st_mode & 0o777 == 0o644


def test_a_program_that_fails_leaves_nothing(tmp_path: Path, file: Path) -> None:
    store = store_with(tmp_path, "sh", "-c", "echo no such luck >&2; exit 3")
    with pytest.raises(TrustError, match="status 3: no such luck"):
        install(Root.read(file), store, "")
    assert not list(store.folder.iterdir())


def test_who_is_not_root_is_told_what_to_give_to_sudo(tmp_path: Path, file: Path, monkeypatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(TrustError, match=r"run: sudo wakegate trust --ca /x/ca\.pem"):
        install(Root.read(file), store_with(tmp_path, "true"), "wakegate trust --ca /x/ca.pem")


def test_an_unknown_system_and_macos(file: Path, monkeypatch) -> None:
    with pytest.raises(TrustError, match=f"curl --cacert {file}"):
        install(Root.read(file), None, "")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(TrustError, match=f"sudo security add-trusted-cert .*{file}"):
        install(Root.read(file), None, "")
    with pytest.raises(TrustError, match=f"sudo security remove-trusted-cert -d {file}"):
        uninstall(Root.read(file), None, "")


def test_the_first_usable_store_counts(tmp_path: Path) -> None:
    here = store_with(tmp_path, "true")
    absent = TrustStore(tmp_path / "absent", ".crt", ("true",))
    without_program = TrustStore(here.folder, ".crt", ("no-such-program",))
    assert find_store((absent, without_program, here)) is here
    assert find_store((absent, without_program)) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; `wakegate serve` makes it"),
        ("", "does not hold one certificate"),
        ("größer", "does not hold one certificate"),
        (make_leaf(SIGNER, ["a.example"], now_us()).certificate, "not the certificate of a CA"),
        (SIGNER.certificate + make_root(now_us()).certificate, "does not hold one certificate"),
    ],
    ids=["no file", "nothing", "no certificate", "a leaf", "two certificates"],
)
def test_what_is_no_ca_is_said(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(TrustError, match=said):
        Root.read(path)


def test_the_command(tmp_path: Path, file: Path) -> None:
    run = CliRunner().invoke
    shown = run(main, ["trust", "--print"], env={"WAKEGATE_DATA_DIR": str(tmp_path)})
    assert (shown.exit_code, shown.output) == (0, SIGNER.certificate)
    assert run(main, ["trust", "--print", "--ca", str(file)]).output == SIGNER.certificate
    wrong = run(main, ["trust", "--data-dir", str(tmp_path / "absent")])
    assert wrong.exit_code == 1
    assert "ca.pem: no such file" in wrong.output


@pytest.mark.root
def test_the_command_that_sudo_gets_can_be_run_from_anywhere(file: Path) -> None:
    if find_store() is None:
        missing("a trust store of the system (Debian: ca-certificates)")
    file.parent.chmod(0o755)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    for begun in ([sys.executable, "-m", "wakegate"], [str(Path(sys.executable).with_name("wakegate"))]):
        with open(file) as readable:  # what lies below pytest's folder is root's alone
            command = [*nobody, *begun, "trust", "--ca", f"/proc/self/fd/{readable.fileno()}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=[readable.fileno()])
        assert done.returncode == 1
        told = shlex.split(done.stderr.partition("run: sudo ")[2])
        assert Path(told[0]).is_absolute()
        assert told[: len(begun)] == begun
        assert told[-3:-1] == ["trust", "--ca"]


def test_openssl_reads_what_is_printed(file: Path) -> None:
    printed = CliRunner().invoke(main, ["trust", "--print", "--ca", str(file)]).output
    done = subprocess.run(["openssl", "x509", "-noout"], input=printed, text=True, check=False)
    assert done.returncode == 0
