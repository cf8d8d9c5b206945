"""The command `wakegate`. Everything heavy is imported by the subcommand that needs it, so that each starts fast."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from wakegate.options import OPTIONS

_CLIENTS = {name: f"wakegate.commands.{name}" for name in ("services", "domains", "keys", "top", "completion")}
_SUMMARIES = {
    "services": "Create, change, deploy, watch and delete services.",
    "domains": "Add, remove and look at custom domains of services, and their certificates.",
    "keys": "Create, list and revoke API keys.",
    "top": "Show live rates, replicas, held requests and latency.",
    "completion": "Print the completion script of a shell.",
}
_INTERRUPTED = 130  # as shells say of a program that Ctrl-C ended


class _Commands(click.Group):
    """A group whose client commands are loaded only when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_CLIENTS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _CLIENTS:
            command: click.Command = getattr(import_module(_CLIENTS[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """An interrupt, also of a question, is told by the exit status."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)
            ctx.exit(_INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = {name: command for name, command in self.commands.items() if not command.hidden}
        rows = {name: command.get_short_help_str() for name, command in own.items()} | _SUMMARIES
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Wakegate: a self-hosted edge for auto-scaling HTTP services that sleep when nobody uses them."""


def _serve_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A click option for each row of the table; values stay text, `wakegate.config` reads them."""
    for option in reversed(OPTIONS):
        default = f"  [default: {option.default}]" if isinstance(option.default, str) and not option.boolean else ""
        settings: dict[str, Any] = {"help": option.help + default}
        if option.boolean:
            settings |= {"is_flag": True, "flag_value": "true", "type": str, "default": None}
        else:
            settings |= {"metavar": option.metavar, "multiple": option.repeatable}
        command = click.option(option.flag, option.name, **settings)(command)
    return command


@main.command()
@click.option("--config", metavar="FILE", envvar="WAKEGATE_CONFIG", help="TOML file with any of these options as keys.")
@click.option("--check", is_flag=True, help="Only validate the configuration.")
@_serve_options
def serve(config: str | None, check: bool, **given: str | Sequence[str] | None) -> None:
    """Run the gateway, the API and the store on this machine.

    Every option is also an environment variable (WAKEGATE_HTTP) and a key of the TOML file (http = …).
    Flag > environment > file > default.
    """
    from wakegate.serve import serve as run

    sys.exit(run(_flags(given), Path(config) if config else None, check=check))


def _flags(given: Mapping[str, str | Sequence[str] | None]) -> dict[str, list[str]]:
    return {name: [value] if isinstance(value, str) else list(value) for name, value in given.items() if value}


@main.command()
@click.option("--config", metavar="FILE", envvar="WAKEGATE_CONFIG", help="TOML file with any of these options as keys.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@_serve_options
def doctor(config: str | None, as_json: bool, **given: str | Sequence[str] | None) -> None:
    """Look at what surrounds serve: ports, DNS, clock, ACME, limits, engines.

    Takes the options of serve, changes nothing, and names one fix per line. Exits 1 if anything has to be mended.
    """
    from wakegate.doctor.run import doctor as run

    sys.exit(run(_flags(given), Path(config) if config else None, as_json=as_json))


@main.command(hidden=True)
@click.argument("number", type=int)
def worker(number: int) -> None:
    """A gateway worker; started by `serve`. The number is for the eye of who looks at the process list."""
    from wakegate.terminal import log_to_stderr

    log_to_stderr(f"worker {number}")
    import_module("wakegate.worker").main()


@main.command(hidden=True)
def control() -> None:
    """The API, autoscaler and reconciler; started by `serve`."""
    import_module("wakegate.control").main()


@main.command()
def demo() -> None:
    """Watch an example service start, serve, sleep, and wake under a held request."""
    from wakegate.demo import demo as run

    sys.exit(run())


@main.command()
@click.option("--data-dir", metavar="DIR", envvar="WAKEGATE_DATA_DIR", default="./.wakegate", show_default=True)
def repair(data_dir: str) -> None:
    """Cut the damaged end off the embedded store's file."""
    from wakegate.errors import ServeError
    from wakegate.repair import repair as run

    try:
        for line in run(Path(data_dir).absolute()):
            click.echo(line)
    except ServeError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--data-dir", metavar="DIR", envvar="WAKEGATE_DATA_DIR", default="./.wakegate", show_default=True)
@click.option("--ca", metavar="FILE", help="Another CA's certificate than the ca.pem of --data-dir.")
@click.option("--uninstall", is_flag=True, help="Stop trusting it.")
@click.option("--print", "show", is_flag=True, help="Only print the certificate.")
def trust(data_dir: str, ca: str | None, uninstall: bool, show: bool) -> None:
    """Let this machine trust the development CA, or not any more."""
    from wakegate import trust as work

    try:
        root = work.Root.read(Path(ca) if ca else Path(data_dir) / "ca.pem")
        if show:
            click.echo(root.text, nl=False)
            return
        repeat = shlex.join([*_ourselves(), "trust", "--ca", str(root.file), *(["--uninstall"] if uninstall else [])])
        change = work.uninstall if uninstall else work.install
        click.echo(change(root, work.find_store(), repeat))
    except work.TrustError as error:
        raise click.ClickException(str(error)) from None


def _ourselves() -> list[str]:
    """How to start this program from anywhere."""
    program = Path(sys.argv[0]).absolute()
    return [sys.executable, "-m", "wakegate"] if program.name == "__main__.py" else [str(program)]


@main.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        click.echo(f"wakegate {installed('wakegate')}")
    except PackageNotFoundError:
        click.echo("wakegate (not installed: run from a checkout)")
