"""The commands that change a service, against the running API: what they send, show and wait for."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from command_runner import Run, proceed, runner, until

from state.codec import decode
from state.kinds import Kind
from state.models import DeploymentState, Service

ACTIVE, FAILED, STARTING = DeploymentState.ACTIVE, DeploymentState.FAILED, DeploymentState.STARTING


@pytest.fixture
def run(rig) -> Run:
    return runner(rig)


@pytest.fixture
async def api(rig):
    """A service `acme/api` that serves."""
    answer = await rig.create("api", env={"OLD": "1", "KEPT": "2"})
    assert answer.status == 201, answer.text
    await proceed(rig, ACTIVE)
    return rig


async def environment(rig) -> dict[str, str]:
    """What the service really has."""
    service = rig.catalogue.service("acme", "api")
    sealed = decode(Service, (await rig.store.get(Kind.SERVICE, service.id)).value).run.env
    return {name: rig.vault.unseal("acme", service.id, name, value) for name, value in sealed.items()}


async def test_every_field_of_a_create_is_an_option(rig, run, tmp_path):
    (tmp_path / "env").write_text("A=file\nB='two words'\n")
    made = await run(
        *("services", "create", "acme/api", "--repo", "acme/api", "--branch", "dev", "--gpu", "T4", "--gpu-count", "2"),
        *("--cpu", "4", "--memory", "8", "--min-replicas", "0", "--max-replicas", "5", "--port", "9000"),
        *("--target-gpu-utilization", "50", "--health-check-path", "/up", "--region", "eu-west-1"),
        *("--custom-domain", "www.acme.com", "--env", "A=flag", "--env-file", str(tmp_path / "env")),
        *("--concurrency", "5", "--target-concurrency", "9", "--idle-timeout", "7", "--scale-down-delay", "8"),
        *("--target-requests-per-second", "20", "--target-queue-delay-ms", "250"),
        *("--hold-timeout", "9", "--startup-timeout", "10", "--affinity", "cookie"),
        *("--hold-keepalive", "--no-waiting-page", "--warm-reserve", "--json"),
    )
    assert made.exit_code == 0, made.output
    service = json.loads(made.stdout)
    given = {
        "branch": "dev",
        "gpu": "T4",
        "gpu_count": 2,
        "cpu": 4,
        "memory": 8,
        "min_replicas": 0,
        "max_replicas": 5,
        "port": 9000,
        "target_gpu_utilization": 50,
        "health_check_path": "/up",
        "region": "eu-west-1",
    }
    assert {name: service[name] for name in given} == given
    assert service["scaling"] == {
        "concurrency": 5,
        "target_concurrency": 9,
        "target_requests_per_second": 20,
        "target_queue_delay_ms": 250,
        "idle_timeout": 7,
        "scale_down_delay": 8,
        "hold_timeout": 9,
        "startup_timeout": 10,
        "affinity": "cookie",
        "hold_keepalive": True,
        "waiting_page": False,
        "warm_reserve": True,
    }
    assert service["custom_domain"] == "www.acme.com"
    assert await environment(rig) == {"A": "flag", "B": "two words"}


async def test_the_secret_of_a_webhook_is_shown_once(run):
    made = await run("services", "create", "acme/api", "--repo", "acme/api")
    assert re.search(r"webhook secret +\S+ \(shown this once\)", made.stdout)
    assert "/hooks/git/acme/api" in made.stdout
    assert "webhook secret" not in (await run("services", "get", "acme/api")).stdout
    again = json.loads((await run("services", "rotate-webhook", "acme/api", "--json")).stdout)
    assert again["url"].endswith("/hooks/git/acme/api")
    assert again["secret"] not in made.stdout
    assert "(shown this once)" in (await run("services", "rotate-webhook", "acme/api")).stdout


async def test_it_is_there_after_waiting_too(rig, run):
    running = asyncio.create_task(run("services", "create", "acme/api", "--repo", "acme/api", "--wait", "--json"))
    await until(lambda: rig.catalogue.service("acme", "api"))
    await proceed(rig, ACTIVE)
    service = json.loads((await running).stdout)
    assert service["status"] == "running" or service["deployment"]["state"] == "active"
    assert service["webhook"]["secret"]


async def test_a_change_of_scaling_deploys_nothing(api, run):
    done = await run("services", "update", "acme/api", "--max-replicas", "7", "--idle-timeout", "9", "--wait")
    assert (done.exit_code, done.stderr) == (0, "nothing of this needs a deployment\n")
    shown = json.loads((await run("services", "get", "acme/api", "--json")).stdout)
    assert (shown["max_replicas"], shown["scaling"]["idle_timeout"], shown["rollout"]) == (7, 9, None)


async def test_an_update_that_deploys_is_waited_for(api, run):
    running = asyncio.create_task(run("services", "update", "acme/api", "--port", "9000", "--wait"))
    await until(lambda: api.catalogue.facts(api.catalogue.service("acme", "api")).latest.cause == "update")
    await proceed(api, STARTING)
    await proceed(api, ACTIVE)
    done = await running
    assert done.exit_code == 0, done.output
    told = [line.split()[1] for line in done.stderr.splitlines()]
    assert told[-2:] == ["deployment.starting", "deployment.active"]
    assert "service.created" not in told
    assert "9000" in done.stdout


async def test_a_rollout_that_fails_ends_the_command_with_its_reason(api, run):
    running = asyncio.create_task(run("services", "redeploy", "acme/api", "--wait", "--json"))
    await until(lambda: api.catalogue.facts(api.catalogue.service("acme", "api")).latest.cause == "redeploy")
    await proceed(api, FAILED, "it exits")
    done = await running
    assert (done.exit_code, done.stderr) == (1, "error: it exits\n")
    service = json.loads(done.stdout)
    assert (service["deployment"]["state"], service["rollout"]["reason"]) == ("active", "it exits")


async def test_a_rollout_that_another_took_the_place_of_is_over(api, run):
    running = asyncio.create_task(run("services", "redeploy", "acme/api", "--wait"))
    await until(lambda: api.catalogue.facts(api.catalogue.service("acme", "api")).latest.cause == "redeploy")
    assert (await run("services", "cancel", "acme/api")).exit_code == 0
    done = await running
    assert done.exit_code == 1
    assert "cancelled" in done.stderr.splitlines()[-1]


async def test_the_environment_is_replaced_merged_and_cleared(api, run):
    async def settled() -> None:
        await proceed(api, ACTIVE)

    assert (await run("services", "env", "set", "acme/api", "NEW=a=b", "OLD=3")).exit_code == 0
    assert await environment(api) == {"OLD": "3", "KEPT": "2", "NEW": "a=b"}
    await settled()
    assert (await run("services", "env", "set", "acme/api", "--env-file", "-", stdin="X=1\nOLD=x\n")).exit_code == 0
    await settled()
    assert (await run("services", "env", "unset", "acme/api", "OLD", "KEPT")).exit_code == 0
    assert await environment(api) == {"NEW": "a=b", "X": "1"}
    await settled()
    assert (await run("services", "env", "list", "acme/api")).stdout == "NAME\nNEW\nX\n"
    assert json.loads((await run("services", "env", "list", "acme/api", "--json")).stdout) == {"NEW": "***", "X": "***"}
    assert (await run("services", "update", "acme/api", "--env", "ONLY=1")).exit_code == 0
    assert await environment(api) == {"ONLY": "1"}
    await settled()
    assert (await run("services", "update", "acme/api", "--clear-env")).exit_code == 0
    assert await environment(api) == {}


async def test_a_domain_is_set_and_taken_away(api, run):
    assert (
        "www.acme.com: pending_dns"
        in (await run("services", "update", "acme/api", "--custom-domain", "www.acme.com")).stdout
    )
    gone = await run("services", "update", "acme/api", "--no-custom-domain", "--json")
    assert json.loads(gone.stdout)["custom_domain"] is None


async def test_back_to_an_earlier_deployment(api, run):
    assert (await run("services", "update", "acme/api", "--port", "9000")).exit_code == 0
    await proceed(api, ACTIVE)
    table = (await run("services", "deployments", "acme/api")).stdout.splitlines()
    assert table[0].split() == ["ID", "STATE", "CAUSE", "VERSION", "CREATED", "REASON"]
    assert [line.split()[1:3] for line in table[1:]] == [["active", "update"], ["superseded", "create"]]
    back = await run("services", "rollback", "acme/api", "--json")
    assert (back.exit_code, json.loads(back.stdout)["port"]) == (0, 8080)
    await proceed(api, ACTIVE)
    listed = json.loads((await run("services", "deployments", "acme/api", "--json")).stdout)["items"]
    assert [item["cause"] for item in listed] == ["rollback", "update", "create"]
    forth = await run("services", "rollback", "acme/api", "--deployment", listed[1]["id"])
    assert forth.exit_code == 0, forth.output
    nothing = await run("services", "rollback", "acme/api", "--deployment", "nothing")
    assert nothing.exit_code == 1


async def test_sleep_and_wake(api, run):
    refused = await run("services", "sleep", "acme/api")
    assert (refused.exit_code, "min_replicas" in refused.stderr) == (1, True)
    assert (await run("services", "update", "acme/api", "--min-replicas", "0")).exit_code == 0
    slept = await run("services", "sleep", "acme/api", "--json")
    assert (slept.exit_code, json.loads(slept.stdout)["replicas"]["desired"]) == (0, 0)
    woken = await run("services", "wake", "acme/api")
    assert woken.exit_code == 0, woken.output
    waited = await run("services", "wake", "acme/api", "--wait", "--timeout", "0.1")
    assert (waited.exit_code, "not ready after 0.1 s" in waited.stderr) == (1, True)


async def test_an_etag_keeps_what_others_changed(api, run):
    etag = re.search(r"etag +(\S+)", (await run("services", "get", "acme/api")).stdout)[1]
    for number, code in ((2, 0), (3, 1)):
        done = await run("services", "update", "acme/api", "--max-replicas", str(number), "--if-match", etag)
        assert done.exit_code == code, done.output
    gone = await run("services", "delete", "acme/api", "--if-match", etag)
    assert (gone.exit_code, (await run("services", "get", "acme/api")).exit_code) == (1, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["update", "acme/api"],
        ["update", "acme/api", "--clear-env", "--env", "A=1"],
        ["update", "acme/api", "--custom-domain", "a.b.com", "--no-custom-domain"],
        ["update", "acme/api", "--gpu", "T4"],
        ["env", "set", "acme/api"],
        ["env", "set", "acme/api", "A"],
        ["env", "unset", "acme/api"],
        ["create", "acme/api", "--env-file", "/nowhere"],
        ["logs", "-n", "acme", "api"],
        ["redeploy", "acme/api", "--timeout", "-1"],
    ],
)
async def test_wrong_usage_exits_2_and_changes_nothing(api, run, arguments):
    before = (await run("services", "get", "acme/api", "--json")).stdout
    assert (await run("services", *arguments)).exit_code == 2
    assert (await run("services", "get", "acme/api", "--json")).stdout == before
