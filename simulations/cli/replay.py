"""`meshctl sim replay`: a plan once more, up to a time or one event after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import Session, duration_us, examples, pass_session
from meshd.cli.output import note, plain, print_json, print_table, table_lines, terminal_width
from simulations.cli.grammar import SimCommand, command_text
from simulations.cli.shown import print_summary, seconds, summary_json, tell_breach
from simulations.cli.sources import repro_of
from simulations.cli.standing import COLUMNS, standing_rows
from simulations.cli.walk import HELP, Walk
from simulations.commit import UNKNOWN, current_commit
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.plan_file import Repro
from simulations.runs import Run, carry_out
from simulations.steps import TIME_US_MAX
from simulations.summary import summary_of
from simulations.trace_diff import line_text
from simulations.trace_lines import trace_lines

LAST_EVENTS_COUNT = 20
PROMPT = "> "


@click.command(
    cls=SimCommand,
    epilog=examples(
        "meshctl sim replay meshd-sim-split-7/repro.json",
        "meshctl sim replay repro.json --until 12.5s",
        "meshctl sim replay repro.json --step",
    ),
)
@click.argument("repro_file", metavar="REPRO", type=click.Path(readable=False))
@click.option(
    "--until",
    "until_us",
    metavar="TIME",
    callback=duration_us(0, TIME_US_MAX),
    help="Stop at this virtual time, such as 12.5s, and show where every device stands.",
)
@click.option("--step", is_flag=True, help="Walk through the events on a terminal, one by one.")
@pass_session
def replay(session: Session, repro_file: str, until_us: int | None, *, step: bool) -> int:
    """Run the plan in the file REPRO again.

    Exits with 1 if it breaks something, as `meshctl sim run` does.
    """
    if step and (session.is_json or not (sys.stdin.isatty() and sys.stdout.isatty())):
        raise click.UsageError("--step asks on a terminal what to show: use --until instead")
    repro = repro_of(repro_file)
    _tell_other_commit(repro)
    again = _Again(repro.plan, command_text("replay", repro_file))
    done = again.run(until_us)
    if step:
        _walk(again, done)
    elif until_us is not None:
        _show(session, done, until_us)
    else:
        summary = summary_of(done, commit=current_commit(), repeat_with=again.repeat_with)
        if session.is_json:
            print_json({"answer": "simulation", **summary_json(summary)})
        else:
            print_summary(summary, is_twice=False)
    if done.error is not None:
        tell_breach(done)
        return Exit.NO
    _tell_mended(repro, done)
    return Exit.DONE


@dataclass(frozen=True, slots=True)
class _Again:
    """Runs a plan as often as somebody wants to see it."""

    plan: Plan
    repeat_with: str

    def run(self, until_us: int | None) -> Run:
        return carry_out(self.plan, MESH_NODE, repeat_with=self.repeat_with, until_us=until_us)

    def standing_at(self, time_us: int) -> Sequence[str]:
        """Return where devices stood at a time: a run that stops there has them as they were."""
        rows = standing_rows(self.run(time_us + 1))
        return table_lines(COLUMNS, rows, width=terminal_width())


def _tell_other_commit(repro: Repro) -> None:
    commit = current_commit()
    if repro.commit not in (None, UNKNOWN, commit) and commit != UNKNOWN:
        note(f"written at commit {repro.commit}, and this is {commit}: the run may be another")


def _tell_mended(repro: Repro, done: Run) -> None:
    if repro.broke is not None and not done.was_stopped:
        note(f"it once broke here, and holds now: {repro.broke}")


def _show(session: Session, done: Run, until_us: int) -> None:
    """Show the last events and where every device stands."""
    events = list(trace_lines(done.lines))[-LAST_EVENTS_COUNT:]
    now_us = done.runner.world.engine.now_us
    rows = list(standing_rows(done))
    if session.is_json:
        names = ("device", "state", "boot", "runs", "unsynced", "linked_with")
        print_json(
            {
                "answer": "moment",
                "time_us": now_us,
                "is_over": not done.was_stopped,
                "devices": [dict(zip(names, row, strict=True)) for row in rows],
                "last_events": [line_text(event).strip() for event in events],
            }
        )
        return
    _echo(line_text(event) for event in events)
    over = "" if done.was_stopped else f", where the run ends before {seconds(until_us)}"
    click.echo(f"\nat {seconds(now_us)}{over}:")
    print_table(COLUMNS, rows)


def _walk(again: _Again, done: Run) -> None:
    walk = Walk(list(trace_lines(done.lines)), again.standing_at)
    click.echo(HELP)
    while not walk.is_over:
        try:
            words = input(PROMPT)
        except EOFError:
            return
        _echo(walk.take(words))


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(plain(line))
