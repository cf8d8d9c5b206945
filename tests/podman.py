"""A real Podman of our own for a test session, an image registry on loopback, and images made of a static busybox.

Podman is the service with the Docker API, with its storage, networks and socket in a short temporary directory. The
registry is just what a pull asks for. Images are put together here, byte by byte: no base image is needed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import resource
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROGRAMS = ("podman", "runc", "conmon", "busybox", "catatonit", "iptables")
PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/podman", "/usr/libexec/podman")
APPLETS = (
    "sh",
    "httpd",
    "sleep",
    "echo",
    "env",
    "cat",
    "kill",
    "yes",
    "head",
    "true",
    "false",
    "seq",
    "ls",
    "nc",
    "tail",
    "wc",
    "tr",
)

SERVER = """\
#!/bin/sh
echo "listening on $HOST:$PORT"
echo "this is stderr" >&2
exec httpd -f -p "$HOST:$PORT" -h /www
"""
SLOW = "#!/bin/sh\nsleep ${QUERY_STRING:-1}\nprintf 'Content-Type: text/plain\\r\\n\\r\\nslow'\n"
TELL = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nenv\n"
SAY = '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\necho "$QUERY_STRING" >/proc/1/fd/1 || true\n'


def lacking() -> list[str]:
    """The programs that are missing on this machine."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *PLACES))
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    busybox = shutil.which("busybox", path=path)
    if busybox is not None and b"ld-linux" in Path(busybox).read_bytes()[:4096]:
        missing.append("a static busybox")
    return missing


def image_files(text: str = "hello from a container\n", **more: str) -> dict[str, bytes]:
    """The files of an image that serves `text` at / and logs that it started; `bin/…` and CGI are executable."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    files = {
        "bin/busybox": busybox,
        "bin/server": SERVER.encode(),
        "www/index.html": text.encode(),
        "www/cgi-bin/slow": SLOW.encode(),
        "www/cgi-bin/env": TELL.encode(),
    }
    return files | {name.replace("__", "/"): content.encode() for name, content in more.items()}


def layer(files: Mapping[str, bytes]) -> bytes:
    """A tar file of these, with busybox under the names of its applets; the same files give the same bytes."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if name.startswith("bin/") or "cgi-bin" in name else 0o644
            archive.addfile(member, io.BytesIO(content))
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return made.getvalue()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """`/v2/` of an image registry on 127.0.0.1; a `private` one wants the password `user:secret`."""

    def __init__(self, *, private: bool = False) -> None:
        self.private = private
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.asked.append(self.path)
                status, kind, body, more = registry.answer(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def push(self, name: str, tag: str, files: Mapping[str, bytes], **config: Any) -> str:
        """Put an image there, under that tag from now on; its digest."""
        content = layer(files)
        packed = gzip.compress(content, 1, mtime=0)
        settings = {"Env": ["PATH=/bin"], "Cmd": ["/bin/server"], **config}
        description = {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": settings,
            "history": [{"created_by": "busybox"}],
            "rootfs": {"type": "layers", "diff_ids": [sha256(content)]},
        }
        described = json.dumps(description).encode()
        kind = "application/vnd.docker."
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}distribution.manifest.v2+json",
            "config": self._part(f"{kind}container.image.v1+json", described),
            "layers": [self._part(f"{kind}image.rootfs.diff.tar.gzip", packed)],
        }
        told = json.dumps(manifest).encode()
        digest = sha256(told)
        self.blobs[digest] = told
        self.tags[name, tag] = digest
        return digest

    def _part(self, kind: str, content: bytes) -> dict[str, Any]:
        self.blobs[sha256(content)] = content
        return {"mediaType": kind, "size": len(content), "digest": sha256(content)}

    def answer(self, path: str, credentials: str | None) -> tuple[int, str, bytes, dict[str, str]]:
        if self.private and credentials != "Basic dXNlcjpzZWNyZXQ=":
            body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()
            return 401, "application/json", body, {"WWW-Authenticate": 'Basic realm="registry"'}
        if path in ("/v2/", "/v2"):
            return 200, "application/json", b"{}", {}
        name, kind, wanted = path.removeprefix("/v2/").rsplit("/", 2)
        digest = self.tags.get((name, wanted), wanted) if kind == "manifests" else wanted
        if digest not in self.blobs:
            code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
            body = json.dumps({"errors": [{"code": code, "message": f"{kind[:-1]} unknown"}]}).encode()
            return 404, "application/json", body, {}
        what = "application/octet-stream"
        if kind == "manifests":
            what = "application/vnd.docker.distribution.manifest.v2+json"
        return 200, what, self.blobs[digest], {"Docker-Content-Digest": digest}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class PodmanService:
    """`podman system service` with everything of its own; `close` ends and removes all of it."""

    def __init__(self, *insecure: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="wgp-", dir="/tmp"))
        self.socket = self.root / "podman.sock"
        _soft, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        _soft, processes = resource.getrlimit(resource.RLIMIT_NPROC)
        processes = 4096 if processes < 0 else min(4096, processes)
        (self.root / "containers.conf").write_text(
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{self.root}/networks"\n'
        )
        (self.root / "registries.conf").write_text(
            "".join(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n' for host in insecure)
        )
        path = os.pathsep.join((os.environ.get("PATH", ""), *PLACES))
        self.env = {
            **os.environ,
            "PATH": path,
            "CONTAINERS_CONF": str(self.root / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.root / "registries.conf"),
            "REGISTRY_AUTH_FILE": str(self.root / "none.json"),
            "TMPDIR": str(self.root),
        }
        self.log = self.root / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def _podman(self) -> list[str]:
        own = ("--root", f"{self.root}/storage", "--runroot", f"{self.root}/run", "--tmpdir", f"{self.root}/tmp")
        return ["podman", *own]

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                # ended with us, however we end
                ["setpriv", "--pdeathsig", "TERM", *self._podman, "system", "service", "-t0", f"unix://{self.socket}"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if self.call("GET", "/_ping", parse=False) == b"OK":
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """The service alone: its containers run on."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        self.stop()
        self.run("rm", "--all", "--force", "--time", "0")
        self.run("network", "prune", "--force")
        self.run("umount", "--all", "--force")
        with contextlib.suppress(OSError):
            for mount in reversed([line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]):
                if mount.startswith(f"{self.root}/"):
                    subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *arguments: str) -> str:
        """A podman command beside the service."""
        done = subprocess.run(
            [*self._podman, *arguments], env=self.env, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout

    def call(self, method: str, path: str, body: Any = None, *, parse: bool = True) -> Any:
        """One call of the Docker API, past the driver."""
        connection = _UnixConnection(self.socket)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
            connection.request(method, path if path == "/_ping" else f"/v1.41{path}", data, {"Content-Type": kind})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if not parse:
            return content
        assert response.status < 400, (response.status, content)
        return json.loads(content) if content.strip() else None

    def containers(self, **labels: str) -> list[dict[str, Any]]:
        """All with these labels (`wakegate.` is put in front), in every state."""
        found = self.call("GET", "/containers/json?all=true")
        wanted = {f"wakegate.{name}": value for name, value in labels.items()}
        return [one for one in found if wanted.items() <= (one.get("Labels") or {}).items()]

    def images(self) -> list[str]:
        """The names of all images."""
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(AssertionError):  # an image was being removed just now
                found = self.call("GET", "/images/json")
                return [name for image in found for name in image["RepoTags"] or []]
            assert time.monotonic() < deadline, "Podman lists no images"
            time.sleep(0.05)

    def inspect(self, container: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/containers/{container}/json"))

    def kill(self, container: str, signal: str = "SIGKILL") -> None:
        self.call("POST", f"/containers/{container}/kill?signal={signal}", parse=False)


class Engines:
    """What container tests need: Podman, and a registry that it may pull from without TLS."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.private = Registry(private=True)
        self.podman = PodmanService(self.registry.host, self.private.host)

    def image(self, name: str, tag: str = "latest", text: str = "hello from a container\n", **config: Any) -> str:
        """Push an image of busybox; how a service names it. `private/…` is where a password is wanted."""
        registry = self.private if name.startswith("private/") else self.registry
        registry.push(name, tag, image_files(text), **config)
        return f"{registry.host}/{name}:{tag}"


def running_engines() -> Iterator[Engines]:
    """For a fixture."""
    engines = Engines()
    try:
        engines.podman.start()
        yield engines
    finally:
        engines.podman.close()
        engines.registry.close()
        engines.private.close()
