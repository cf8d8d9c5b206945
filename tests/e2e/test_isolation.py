"""Started as root, a replica can't read the data directory, the store's socket or another namespace's checkout."""

from __future__ import annotations

import json
import os

import pytest
from e2e_node import eventually
from shared_nodes import PLAIN

pytestmark = [pytest.mark.e2e, pytest.mark.root, PLAIN.group]

# answers what happened when it tried to read, connect and signal what its query names
SPY = """\
import http.server, json, os, socket, sys, urllib.parse
def attempt(path):
    tried = {}
    for name, act in {
        "list": lambda: os.listdir(path),
        "read": lambda: open(path, "rb").read(10).hex(),
        "write": lambda: open(path, "ab").close(),
        "connect": lambda: socket.socket(socket.AF_UNIX).connect(path),
    }.items():
        try:
            act()
            tried[name] = "ok"
        except OSError as error:
            tried[name] = type(error).__name__
    return tried
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("path", [""])[0]
        told = {"uid": os.getuid(), "groups": os.getgroups(), "environment": dict(os.environ), "cwd": os.getcwd(),
                "fds": sorted(os.listdir("/proc/self/fd")), "tried": attempt(path) if path else {}}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_a_replica_sees_nothing_of_the_node_or_of_another_namespace(plain_node):
    node = plain_node
    for namespace in ("acme", "evil"):
        node.commit(f"{namespace}/spy", {"Procfile": "web: exec python3 server.py\n", "server.py": SPY})
        node.create(namespace, "spy", env={"OWN": namespace})
    for namespace in ("acme", "evil"):
        node.wait_status(namespace, "spy", "running")

    def ask(namespace: str, path: str = "") -> dict:
        return json.loads(node.request(f"spy-{namespace}.apps.localhost", f"/?path={path}").body)

    acme, evil = ask("acme"), ask("evil")
    assert acme["uid"] != evil["uid"]
    assert {acme["uid"], evil["uid"]} <= set(range(61000, 62000))
    assert set(acme["groups"]) <= {acme["uid"]}
    assert set(acme["environment"]) - {"LC_CTYPE", "PWD", "SHLVL", "_", "OLDPWD"} == {
        "PATH",
        "HOME",
        "LANG",
        "PORT",
        "HOST",
        "OWN",
    }
    assert acme["environment"]["OWN"] == "acme"

    refused = {"PermissionError"}
    assert ask("evil", acme["cwd"])["tried"]["list"] in refused
    assert ask("evil", acme["cwd"] + "/server.py")["tried"]["read"] in refused
    assert ask("evil", acme["environment"]["HOME"])["tried"]["list"] in refused
    for process in node.pids().values():
        assert ask("evil", f"/proc/{process[0]}/environ")["tried"]["read"] in refused
    for found in eventually(lambda: sorted(node.data.rglob("*"))):
        owner = found.lstat().st_uid if found.exists() else 0
        if owner >= 61000 or found.is_symlink() or "evil" in found.parts:
            continue  # a tenant's own; another's is judged above
        if found.name in ("gitconfig", "git.config", "ca.pem"):
            continue  # what git is told, which runs as the tenant or as nobody; the CA's certificate: nothing secret
        tried = ask("evil", str(found))["tried"]
        if found.is_dir():
            assert tried["list"] in refused, found
        else:
            assert tried["read"] in refused | {"OSError"}, found
        assert tried["write"] != "ok", found
        assert tried["connect"] != "ok", found
    assert ask("evil", str(node.data))["tried"]["list"] in refused
    assert ask("evil", str(node.data / "store.sock"))["tried"]["connect"] in refused
    assert os.stat(node.data).st_mode & 0o777 == 0o711
