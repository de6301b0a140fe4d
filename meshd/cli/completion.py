"""Scripts with which shells complete our commands: `meshctl completion bash`."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from meshd.cli.exits import Exit
from meshd.cli.grammar import MeshCommand, examples

INSTALL = {
    "bash": "{name} completion bash > ~/.local/share/bash-completion/completions/{name}",
    "zsh": "{name} completion zsh > ~/.zfunc/_{name}  # with ~/.zfunc in fpath before compinit",
    "fish": "{name} completion fish > ~/.config/fish/completions/{name}.fish",
}


def completion_of(group: click.Group) -> click.Command:
    """Return the command `completion` of `group`."""
    name = str(group.name)

    @click.command(
        "completion",
        cls=MeshCommand,
        epilog=examples(*(line.format(name=name).partition("  #")[0] for line in INSTALL.values())),
    )
    @click.argument("shell", type=click.Choice(list(INSTALL)))
    def completion(shell: str) -> int:
        """Print the script that completes commands, devices and tasks in SHELL."""
        kind = get_completion_class(shell)
        assert kind is not None, "INSTALL names only shells that click knows"  # noqa: S101
        script = kind(group, {}, name, f"_{name.upper()}_COMPLETE")
        click.echo(f"# to install: {INSTALL[shell].format(name=name)}")
        # Not kind.source, which for bash runs bash to look at its version.
        click.echo(ShellComplete.source(script))
        return Exit.DONE

    return completion
