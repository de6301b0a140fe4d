"""`meshctl peers --watch`: the table of devices again and again. Imports rich, so only then."""

from __future__ import annotations

import time

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from meshd.cli.exits import Exit
from meshd.cli.grammar import Session
from meshd.cli.mesh import peer_lines
from meshd.cli.output import print_json_line


def watch_peers(session: Session, *, period_s: float) -> int:
    """Show the devices until Ctrl-C, which is how it ends well; one JSON line each with JSON."""
    try:
        if session.is_json:
            return _print_each(session, period_s)
        return _redraw(session, period_s)
    except KeyboardInterrupt:
        return Exit.DONE


def _print_each(session: Session, period_s: float) -> int:
    with session.connect() as client:
        while True:
            print_json_line(client.ask({"command": "peers"}))
            time.sleep(period_s)


def _redraw(session: Session, period_s: float) -> int:
    console = Console()
    if not console.is_terminal:
        raise click.UsageError("--watch redraws a terminal: leave it out, or add --output json")
    with (
        session.connect() as client,
        Live(console=console, auto_refresh=False, transient=False) as live,
    ):
        while True:
            lines = peer_lines(client.ask({"command": "peers"}), width=console.width)
            live.update(Text("\n".join(lines), no_wrap=True), refresh=True)
            time.sleep(period_s)
