"""`meshd version`: what is installed."""

from __future__ import annotations

import platform

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import MeshCommand, Session, examples, pass_session
from meshd.cli.output import print_json
from meshd.control_frames import PROTOCOL_HIGHEST, PROTOCOL_LOWEST
from meshd.version import version as installed_version


def version_line() -> str:
    """Return what people are told: both commands are of one release."""
    return f"meshd {installed_version()}, Python {platform.python_version()}"


@click.command(cls=MeshCommand, epilog=examples("meshd version"))
@pass_session
def version(session: Session) -> int:
    """Print the version of the installed release."""
    if session.is_json:
        print_json(
            {
                "answer": "version",
                "version": installed_version(),
                "control_protocol": [PROTOCOL_LOWEST, PROTOCOL_HIGHEST],
                "python": platform.python_version(),
            }
        )
    else:
        click.echo(version_line())
    return Exit.DONE
