"""What the commands make of their arguments and of the API's answers: pure functions."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from scripted_api import SERVICE, deployment

from wakegate.cli import main
from wakegate.commands import figures
from wakegate.commands.fields import assignments, body, env_lines
from wakegate.commands.progress import newest, verdict
from wakegate.commands.rates import last_complete, to_ask
from wakegate.commands.spans import before
from wakegate.commands.suggestions import items
from wakegate.commands.views import deployment_line, service_facts


def test_an_environment_file():
    text = """
    # a comment
    A=1
    export B = two words  # and why
    C='single $x # stays'
    D="a\\nb \\"c\\" \\\\"   # after
    E=
    F=a=b#c
    A=2
    """
    found = {"A": "2", "B": "two words", "C": "single $x # stays", "D": 'a\nb "c" \\', "E": "", "F": "a=b#c"}
    assert env_lines(text.splitlines()) == found


def test_all_bad_lines_of_an_environment_file_are_told_but_not_what_is_in_them():
    with pytest.raises(click.BadParameter, match=r"line 1, 3, 4") as error:
        env_lines(["novalue-s3cret", "A=1", "B='s3cret", '"s3cret"'])
    assert "s3cret" not in str(error.value)


def test_an_assignment_that_is_none_does_not_show_what_it_is():
    assert assignments(["A=b=c", "B="]) == {"A": "b=c", "B": ""}
    for bad in ("s3cret", "=s3cret"):
        with pytest.raises(click.BadParameter, match="number 2") as error:
            assignments(["A=1", bad])
        assert "s3cret" not in str(error.value)


def test_only_what_was_given_is_sent():
    given = {"port": None, "cpu": 4, "env": {}, "idle_timeout": 5, "affinity": None, "min_replicas": 0}
    assert body(given) == {"cpu": 4, "env": {}, "min_replicas": 0, "scaling": {"idle_timeout": 5}}
    assert body({"port": None}) == {}


NOW = datetime(2026, 3, 18, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "time"),
    [
        ("10m", "2026-03-18T11:50:00.000000Z"),
        ("0s", "2026-03-18T12:00:00.000000Z"),
        ("1w", "2026-03-11T12:00:00.000000Z"),
        ("2026-03-18T12:00:00+02:00", "2026-03-18T12:00:00+02:00"),
        ("yesterday", "yesterday"),
    ],
)
def test_spans_are_times_before_now(given, time):
    assert before(given, NOW) == time


def test_a_span_beyond_the_calendar_is_refused():
    with pytest.raises(click.BadParameter):
        before("999999999w", NOW)


def test_figures():
    assert [figures.rate(v) for v in (None, 0, 0.5, 12.34, 1234.5)] == ["-", "0.0", "0.50", "12.3", "1234"]
    assert [figures.milliseconds(v) for v in (None, 1.25, 250, 12_000)] == ["-", "1.2 ms", "250 ms", "12.0 s"]
    assert [figures.size(v) for v in (None, 0, 1023, 1536, 3 << 30)] == ["-", "0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
    assert [figures.count(v) for v in (None, 3, 2.0, 0.5)] == ["-", "3", "2", "0.5"]


def test_sparklines():
    assert figures.sparkline([0, 1, 2, 4, 8], 80) == "▁▂▃▅█"
    assert figures.sparkline([0, None, 0], 80) == "▁▁▁"
    assert figures.sparkline([], 80) == ""
    assert figures.sparkline([0, 8, 0, 0, 1, 0], 3) == "█▁▂"
    assert len(figures.sparkline([1] * 1500, 79)) <= 79


def test_the_newest_deployment_is_the_rollout_if_there_is_one():
    serving, coming = deployment(1), deployment(2, "building")
    assert newest({"deployment": serving, "rollout": coming}) is coming
    assert newest({"deployment": serving, "rollout": None}) is serving
    assert newest({"deployment": None, "rollout": None})["id"] is None


@pytest.mark.parametrize(
    ("state", "reason", "why"),
    [
        ("active", None, None),
        ("superseded", None, None),
        ("failed", "no Procfile", "no Procfile"),
        ("cancelled", None, "the deployment is cancelled"),
    ],
)
def test_why_a_deployment_does_not_serve(state, reason, why):
    assert verdict(deployment(1, state, reason=reason)) == why


def test_deployments_are_told_in_a_line():
    assert deployment_line(None) is None
    assert deployment_line(deployment(1, commit="0123456789abcdef")) == "active at 0123456789ab"
    failed = deployment(1, "failed", digest="sha256:0123456789abcdef0123", reason="it exits")
    assert deployment_line(failed) == "failed at sha256:0123456789ab: it exits"


def test_a_service_in_facts():
    facts = {name: str(value) for name, value in service_facts(SERVICE, '"e"').items() if value is not None}
    assert facts["webhook secret"] == "s3 (shown this once)"
    assert facts["domain"] == "www.acme.com: pending_dns (nxdomain)"
    assert facts["dns record"] == "CNAME www.acme.com -> web-acme.apps.localhost"
    assert facts["resources"].endswith("gpu L4 x 2, aiming at 70 %")
    assert (facts["replicas"], facts["env"], facts["etag"]) == ("1 desired, 1 ready (from 0 to 3)", "KEY", '"e"')
    custom, other = SERVICE["domain"], {**SERVICE["domain"], "name": "acme.com", "status": "active", "reason": None}
    both = service_facts({**SERVICE, "domain": {**custom, "status": "active"}, "domains": [custom, other]})
    assert (both["dns record"], both["more domains"]) == (None, "acme.com: active")
    plain = service_facts({**SERVICE, "domain": None, "webhook": None})
    assert (plain.get("domain"), plain["webhook secret"], plain["etag"]) == (None, None, None)


def test_who_runs_and_was_not_asked_for_long_is_asked_first():
    awake, asleep = {"replicas": {"ready": 1}}, {"replicas": {"ready": 0}}
    services = {("n", "a"): asleep, ("n", "b"): awake, ("n", "c"): awake, ("n", "d"): awake}
    asked = {("n", "c"): 95.0, ("n", "d"): 80.0}
    assert to_ask(services, asked, 100.0) == [("n", "b"), ("n", "a"), ("n", "d")]
    assert to_ask(services, asked, 200.0)[-1] == ("n", "c")
    assert to_ask({}, asked, 1.0) == []


def test_the_newest_step_that_is_over_counts():
    points = [{"time": (NOW - timedelta(seconds=s)).isoformat(), "n": s} for s in (25, 15, 5)]
    assert last_complete(points, NOW)["n"] == 15
    assert last_complete(points[2:], NOW)["n"] == 5
    assert last_complete([], NOW) is None


def test_a_shell_is_given_names_alone():
    found = items("a", ["api", "$(reboot)", "a;b", "web", "a\x1b[2J", "a" * 64], prefix="acme/")
    assert [item.value for item in found] == ["acme/api"]


def test_the_commands_of_the_page_about_them_exist():
    page = (Path(__file__).parents[2] / "docs" / "command.md").read_text()
    lines = re.findall(
        r"^(?:\$ |\S+ .*\| )?wakegate ([a-z].*?)(?:\s*[#|>].*)?$", page.replace("\\\n", " "), re.MULTILINE
    )
    assert len(lines) > 25
    for line in lines:
        command, path, words = main, [], line.split()
        while isinstance(command, click.Group):
            path.append(words.pop(0))
            command = command.get_command(click.Context(command), path[-1]) or pytest.fail(f"no {' '.join(path)}")
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-") and word != "-"} <= known, line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_WAKEGATE_COMPLETE" in done.stdout
    assert f"{shell}_complete" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2


def test_every_command_explains_itself():
    def commands(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        if not isinstance(group, click.Group):
            return [path]
        context = click.Context(group)
        found = [commands(group.get_command(context, n) or group, (*path, n)) for n in group.list_commands(context)]
        return [path, *(each for some in found for each in some)]

    for path in commands(main):
        told = CliRunner().invoke(main, [*path, "--help"])
        assert told.exit_code == 0, path
        assert "Usage:" in told.stdout
    assert json.dumps(list(commands(main))).count("services") > 15
