"""Commands that other packages add: whoever declares an entry point of a group's name has one.

`meshctl sim` is such a command. Entry points are looked up only for a name that is not ours, for
the help and for completion, so what is installed beside us slows down no command of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import CommandFailed, MeshGroup

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints


class OpenGroup(MeshGroup):
    """A set of commands that installed packages add to: entry points of the group NAME.commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return our commands, then those that were added, by name."""
        own = super().list_commands(ctx)
        return [*own, *sorted({entry.name for entry in self._entries()} - set(own))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name; ours come first."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        entry = next((one for one in self._entries() if one.name == cmd_name), None)
        return None if entry is None else _loaded(entry)

    def _entries(self) -> EntryPoints:
        from importlib.metadata import entry_points  # slow, and seldom needed

        return entry_points(group=f"{self.name}.commands")


def _loaded(entry: EntryPoint) -> click.Command:
    """Return the command of an entry point; of a broken one a command that says so."""
    try:
        command = entry.load()
    except (ImportError, AttributeError) as error:
        return _broken(entry, str(error))
    if not isinstance(command, click.Command):
        return _broken(entry, f"{entry.value} is no command")
    return command


def _broken(entry: EntryPoint, reason: str) -> click.Command:
    package = entry.dist.name if entry.dist else entry.module

    def fail() -> None:
        raise CommandFailed(
            f"the command {entry.name!r} of {package} cannot be loaded: {reason}",
            Exit.USAGE,
            hint=f"install {package} again, or remove it",
        )

    # The help of all the others must not fail for it, and its arguments are nobody's.
    return click.Command(
        entry.name,
        callback=fail,
        short_help=f"Cannot be loaded: {reason}",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
