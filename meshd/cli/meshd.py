"""`meshd`: starts and stops the daemon of this device."""

from __future__ import annotations

import click

from meshd.cli.completion import completion_of
from meshd.cli.grammar import MeshGroup, examples
from meshd.cli.starting import start
from meshd.cli.stopping import stop
from meshd.cli.streams import prepare_streams
from meshd.cli.version import version


@click.group(
    "meshd",
    cls=MeshGroup,
    epilog=examples("meshd start", "meshd start --home ~/second --join -", "meshd stop"),
)
def cli() -> None:
    """Run this device's part of a private mesh. `meshctl` talks to it.

    Exit codes: 0 done, 1 it could not run or stop, 2 usage or bad file, 4 no daemon.
    """


for _command in (start, stop, version, completion_of(cli)):
    cli.add_command(_command)


def main() -> None:
    """Run meshd with the arguments of this process, and end it."""
    prepare_streams()
    cli.main()
