"""`meshd stop`: asks the daemon to end, and waits until its process has."""

from __future__ import annotations

import os
import select

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import CommandFailed, MeshCommand, Session, examples, pass_session
from meshd.cli.output import print_json

STOP_TIMEOUT_S = 5.0


@click.command(cls=MeshCommand, epilog=examples("meshd stop", "meshd stop --home ~/second"))
@pass_session
def stop(session: Session) -> int:
    """Stop the daemon: it gives its work back and says goodbye."""
    with session.connect() as client:
        pid = client.daemon_pid
        process = _descriptor_of(pid)
        try:
            client.ask({"command": "stop"})
            if process is not None and not _has_ended(process):
                raise CommandFailed(
                    f"the daemon (process {pid}) has not ended after {STOP_TIMEOUT_S:.0f} s",
                    Exit.NO,
                    hint=f"see its log in {session.home / 'logs'}, or end it with `kill -9 {pid}`:"
                    " nothing that it accepted is lost",
                    code="still_running",
                )
        finally:
            if process is not None:
                os.close(process)
    if session.is_json:
        print_json({"answer": "stopped", "pid": pid})
    else:
        click.echo(f"stopped (process {pid})")
    return Exit.DONE


def _descriptor_of(pid: int) -> int | None:
    """Return a descriptor of the process, None if it is gone, or in a namespace we cannot see."""
    if pid <= 0:
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _has_ended(process: int) -> bool:
    """Wait for the process of the descriptor; a process that ended makes it readable."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(STOP_TIMEOUT_S * 1000))
