"""The command `mbv3c completion`."""

import click
from click.shell_completion import get_completion_class

from mbv3c.commands.places import OneOf

_PROGRAM, _VARIABLE = "mbv3c", "_MBV3C_COMPLETE"
# bash would break words at the colons of targets.
_BEFORE = {"bash": "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n"}


@click.command()
@click.argument("shell", type=OneOf(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print what completes mbv3c's commands, options and targets in a shell.

    \b
    bash:  eval "$(mbv3c completion bash)"        in ~/.bashrc
    zsh:   eval "$(mbv3c completion zsh)"         in ~/.zshrc
    fish:  mbv3c completion fish > ~/.config/fish/completions/mbv3c.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root().command
    # click's own `source` asks bash for its version: who completes elsewhere has none to ask.
    made = found(root, {}, _PROGRAM, _VARIABLE)
    click.echo(_BEFORE.get(shell, "") + made.source_template % made.source_vars())
