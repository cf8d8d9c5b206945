"""`wakegate completion`: the script by which a shell completes commands, options and names of services."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

_SHELLS: Final = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
_PROGRAM: Final = "wakegate"
_VARIABLE: Final = "_WAKEGATE_COMPLETE"  # click looks for it by the program's name


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: wakegate completion bash > ~/.local/share/bash-completion/completions/wakegate
    zsh:  wakegate completion zsh > "${fpath[1]}/_wakegate"
    fish: wakegate completion fish > ~/.config/fish/completions/wakegate.fish
    """
    script = _SHELLS[shell](context.find_root().command, {}, _PROGRAM, _VARIABLE)
    # not its `source`: that runs the bash of this machine to see its version, which says nothing of where this goes
    click.echo(script.source_template % script.source_vars())
