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
        """Print the script with which SHELL completes our commands."""
        kind = get_completion_class(shell)
        assert kind is not None, "INSTALL names only shells that click knows"  # noqa: S101
        script = kind(group, {}, name, f"_{name.upper()}_COMPLETE")
        # Not kind.source, which for bash runs bash to look at its version.
        lines = ShellComplete.source(script).splitlines()
        # zsh reads from the first line of a file what it completes.
        place = 1 if lines[0].startswith("#compdef") else 0
        lines.insert(place, f"# to install: {INSTALL[shell].format(name=name)}")
        click.echo("\n".join(lines))
        return Exit.DONE

    return completion
