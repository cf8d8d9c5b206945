"""The client commands against the running API: tables, `--json`, exit codes, quoting, waiting, following."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys

import pytest
from command_runner import Run, invoke, proceed, runner, until

from activator.logs import Stream
from state.codec import decode
from state.ids import now_us
from state.kinds import Kind
from state.models import DeploymentState, Event, Service
from wakegate.commands import configuring

CREATE = ["services", "create", "api", "--namespace", "acme", "--repo", "acme/api"]


@pytest.fixture
def run(rig) -> Run:
    return runner(rig)


async def test_create_get_list_delete(rig, run):
    made = await run(*CREATE, "--min-replicas", "0", "--env", "KEY=a=b", "--concurrency", "5")
    assert made.exit_code == 0, made.output
    assert "http://api-acme.apps.localhost:8080" in made.stdout
    shown = await run("services", "get", "acme/api", "--json")
    service = json.loads(shown.stdout)
    assert (service["min_replicas"], service["scaling"]["concurrency"], service["env"]) == (0, 5, {"KEY": "***"})
    sealed = decode(Service, (await rig.store.get(Kind.SERVICE, service["id"])).value).run.env["KEY"]
    assert rig.vault.unseal("acme", service["id"], "KEY", sealed) == "a=b"
    table = await run("services", "list", "--namespace", "acme")
    assert "deploying" in table.stdout
    assert "acme/app@main" in table.stdout or "acme/api@main" in table.stdout
    listed = await run("services", "list", "--namespace", "acme", "--json", "--status", "deploying")
    assert json.loads(listed.stdout)["total"] == 1
    events = await run("services", "events", "acme/api")
    assert "service.created" in events.stdout
    gone = await run("services", "delete", "acme/api", "--force")
    assert (gone.exit_code, gone.stdout) == (0, "deleted acme/api\n")
    assert (await run("services", "get", "acme/api")).exit_code == 1


async def test_without_a_namespace_the_own_one_counts(rig, run):
    for namespace, name in (("acme", "api"), ("acme", "web"), ("other", "else")):
        await rig.create(name, namespace=namespace)
    token = await rig.key("mine", "acme", "write")
    mine = await run("services", "list", WAKEGATE_API_KEY=token)
    assert ("api" in mine.stdout, "web" in mine.stdout, mine.stderr) == (True, True, "")
    assert (await run("services", "delete", "web", WAKEGATE_API_KEY=token)).stdout == "deleted acme/web\n"
    chosen = await run("services", "get", "else", "--json", WAKEGATE_NAMESPACE="other")
    assert json.loads(chosen.stdout)["namespace"] == "other"
    assert (await run("services", "list", "--namespace", "acme", WAKEGATE_NAMESPACE="other")).stderr == ""


async def test_a_list_that_chose_its_namespace_names_the_others(rig, run):
    assert (await run("services", "list")).stderr == ""
    await rig.create("api")
    await rig.create("api", namespace="beta")
    for more in ([], ["--json"]):
        listed = await run("services", "list", *more)
        assert listed.exit_code == 0
        assert listed.stderr == "this is namespace default; --namespace shows those of: acme, beta\n"
    assert json.loads(listed.stdout)["total"] == 0


async def test_a_failed_call_exits_1_and_names_every_field(run):
    failed = await run(*CREATE, "--port", "0", "--gpu", "X", "--env", "PORT=1")
    assert failed.exit_code == 1
    assert failed.stdout == ""
    for field in ("port:", "gpu:", "env.PORT:"):
        assert field in failed.stderr
    told = await run(*CREATE, "--port", "0", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["errors"][0]["field"] == "port"


async def test_bytes_that_are_no_characters_are_refused_by_the_api(rig, run):
    for arguments in (
        ["services", "get", "acme/\udcff"],
        ["services", "logs", "acme/api", "--replica", "\udcff"],
        ["services", "list", "--namespace", "\udcff"],
        [*CREATE, "--env", "KEY=\udcff"],
        ["keys", "revoke", "\udcff"],
    ):
        done = await run(*arguments)
        assert (done.exit_code, done.stderr.startswith("error: ")) == (1, True), done.output


async def test_wrong_usage_exits_2(run):
    for arguments in (
        ["services", "create"],
        ["services", "nothing"],
        [*CREATE, "--env", "x"],
        ["keys", "create", "x"],
    ):
        assert (await run(*arguments)).exit_code == 2, arguments


async def test_bad_credentials_and_no_api_are_told(rig, run):
    refused = await run("services", "list", WAKEGATE_API_KEY="admin$wrong")
    assert (refused.exit_code, "unknown, revoked or expired" in refused.stderr) == (1, True)
    nobody = await run("services", "list", WAKEGATE_API_URL="http://127.0.0.1:1")
    assert (nobody.exit_code, "can't be reached" in nobody.stderr) == (1, True)
    other = await run("services", "list", WAKEGATE_API_URL="gopher://x")
    assert (other.exit_code, "WAKEGATE_API_URL" in other.stderr) == (1, True)


async def test_keys_are_printed_single_quoted_and_work(rig, run):
    made = await run("keys", "create", "ci", "--namespace", "acme", "--scope", "write", "--expires", "90d")
    assert made.exit_code == 0
    line = made.stdout.strip()
    assert line.startswith("'ci$")
    assert line.endswith("'")
    (token,) = shlex.split(line)
    assert (await rig.api("GET", "/acme/services", token=token)).status == 200
    listed = await run("keys", "list")
    assert "ci" in listed.stdout
    assert token.partition("$")[2] not in listed.stdout
    as_json = await run("keys", "create", "second", "--scope", "read", "--json")
    assert json.loads(as_json.stdout)["namespace"] == "*"
    assert (await run("keys", "revoke", "ci")).exit_code == 0
    assert (await rig.api("GET", "/acme/services", token=token)).status == 401
    assert (await run("keys", "revoke", "ci")).exit_code == 1


async def created(rig) -> None:
    await until(lambda: rig.catalogue.service("acme", "api"))


async def test_wait_shows_the_progress_until_it_serves(rig, run):
    running = asyncio.create_task(run(*CREATE, "--wait"))
    await created(rig)
    for state in (DeploymentState.BUILDING, DeploymentState.STARTING, DeploymentState.ACTIVE):
        await proceed(rig, state)
    done = await running
    assert done.exit_code == 0, done.output
    told = [line.split()[1] for line in done.stderr.splitlines()]
    assert told == ["service.created", "deployment.building", "deployment.starting", "deployment.active"]


async def test_wait_ends_with_the_reason_of_a_failure(rig, run):
    running = asyncio.create_task(run(*CREATE, "--wait", "--json"))
    await created(rig)
    await proceed(rig, DeploymentState.FAILED, "add a Procfile")
    done = await running
    assert done.exit_code == 1
    assert "add a Procfile" in done.stderr
    assert json.loads(done.stdout)["status"] == "failed"


async def test_wait_has_an_end(run):
    done = await run(*CREATE, "--wait", "--timeout", "0.1")
    assert done.exit_code == 1
    assert "not ready after 0.1 s" in done.stderr


async def test_logs(rig, run):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, "d", [f"line {n}" for n in range(5)], Stream.STDOUT)
    shown = await run("services", "logs", "acme/api", "-n", "2")
    assert [line.rpartition("stdout ")[2] for line in shown.stdout.splitlines()] == ["line 3", "line 4"]
    as_json = await run("services", "logs", "acme/api", "--stream", "build", "--json")
    assert json.loads(as_json.stdout)["items"] == []


EVIL = "\x1b]0;owned\x07\x9b2J\u202e\r\nforged"
SHOWN = r"\x1b]0;owned\x07\x9b2J\u202e\r\nforged"


async def test_what_tenants_wrote_does_nothing_to_a_terminal(rig, run):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, "d", [EVIL.replace("\n", "")], Stream.STDOUT)
    await rig.store.append_event(service, Event(now_us(), "replica.failed", EVIL))
    await proceed(rig, DeploymentState.FAILED, EVIL)
    told = [
        await run("services", "logs", "acme/api"),
        await run("services", "events", "acme/api"),
        await run("services", "get", "acme/api"),
        await run("services", "list", "--namespace", "acme"),
        await run("services", "logs", "acme/api", "--json"),
        await run("services", "events", "acme/api", "--json"),
        await run("services", "get", f"acme/{EVIL}"),
        await run("keys", "revoke", EVIL),
    ]
    for result in told:
        assert not set(result.output) & set("\x1b\x07\x9b\u202e\r"), result.output
    assert SHOWN.replace(r"\n", "") in told[0].stdout
    assert SHOWN in told[1].stdout
    assert SHOWN in told[2].stdout
    assert json.loads(told[5].stdout)["items"][-1]["reason"] == EVIL
    assert told[7].exit_code == 1


async def test_waiting_shows_what_tenants_wrote_harmlessly(rig, run):
    running = asyncio.create_task(run(*CREATE, "--wait"))
    await created(rig)
    await proceed(rig, DeploymentState.FAILED, EVIL)
    done = await running
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert done.stderr.count(SHOWN) == 2  # the event, and the reason at the end


async def test_following_logs_misses_and_repeats_nothing(rig):
    service = (await rig.create("api")).json["id"]
    rig.logs.append(service, None, ["before"])
    command = [
        *(sys.executable, "-m", "wakegate"),
        *("services", "logs", "acme/api", "-f", "--json"),
    ]
    env = {**os.environ, "WAKEGATE_API_URL": rig.url, "WAKEGATE_API_KEY": rig.token}
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    seen = []
    async with asyncio.timeout(30):
        seen.append(json.loads(await process.stdout.readline())["line"])
        for n in range(3):
            rig.logs.append(service, None, [f"line {n}", f"more {n}"])
            seen += [json.loads(await process.stdout.readline())["line"] for _ in range(2)]
    process.kill()
    await process.wait()
    assert seen == ["before", "line 0", "more 0", "line 1", "more 1", "line 2", "more 2"]


COMMANDS = {
    "GET /{namespace}/services": "services list",
    "GET /{namespace}/service/{name}": "services get",
    "GET /{namespace}/service/{name}/logs": "services logs",
    "GET /{namespace}/service/{name}/events": "services events",
    "GET /{namespace}/service/{name}/analytics": "services analytics",
    "GET /{namespace}/service/{name}/deployments": "services deployments",
    "POST /auth/v1/seed/{namespace}/services": "services create",
    "PUT /auth/v1/seed/{namespace}/services/{name}": "services update",
    "DELETE /auth/v1/seed/{namespace}/services/{name}": "services delete",
    "PATCH /auth/v1/seed/{namespace}/services/{name}/env": "services env set",
    **{
        f"POST /auth/v1/seed/{{namespace}}/services/{{name}}/{action}": f"services {action}"
        for action in ("redeploy", "rollback", "cancel", "sleep", "wake")
    },
    "POST /auth/v1/seed/{namespace}/services/{name}/webhook": "services rotate-webhook",
    "GET /{namespace}/service/{name}/domains": "domains list",
    "GET /{namespace}/service/{name}/domains/{domain}": "domains status",
    "POST /auth/v1/seed/{namespace}/services/{name}/domains": "domains add",
    "DELETE /auth/v1/seed/{namespace}/services/{name}/domains/{domain}": "domains remove",
    "PUT /auth/v1/seed/{namespace}/services/{name}/domains/{domain}/certificate": "domains certificate",
    "DELETE /auth/v1/seed/{namespace}/services/{name}/domains/{domain}/certificate": "domains certificate",
    "GET /auth/v1/key": "keys own",
    "GET /auth/v1/keys": "keys list",
    "POST /auth/v1/keys": "keys create",
    "GET /auth/v1/keys/{name}": "keys get",
    "DELETE /auth/v1/keys/{name}": "keys revoke",
}
NOT_FOR_PEOPLE = {
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /openapi.json",
    "POST /hooks/git/{namespace}/{name}",
}


async def test_every_call_of_the_api_is_a_command(rig):
    paths = (await rig.api("GET", "/openapi.json")).json["paths"]
    verbs = ("get", "post", "put", "patch", "delete")
    calls = {f"{verb.upper()} {path}" for path, calls in paths.items() for verb in calls if verb in verbs}
    assert calls - NOT_FOR_PEOPLE == set(COMMANDS)
    for words in COMMANDS.values():
        assert invoke(*words.split(), "--help").exit_code == 0, words


async def test_every_field_that_can_be_given_is_an_option(rig):
    schemas = (await rig.api("GET", "/openapi.json")).json["components"]["schemas"]
    for command, body in ((configuring.create, "CreateBody"), (configuring.update, "UpdateBody")):
        options = {parameter.name for parameter in command.params}
        fields = {*schemas[body]["properties"], *schemas["ScalingBody"]["properties"]} - {"scaling"}
        assert fields <= options, fields - options
