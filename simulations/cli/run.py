"""`meshctl sim list` and `meshctl sim run`: one run, and everything about it."""

from __future__ import annotations

from pathlib import Path

import click

from meshd.cli.exits import Exit
from meshd.cli.files import FileFailed
from meshd.cli.grammar import Session, examples, pass_session
from meshd.cli.output import Column, note, print_json, print_table
from simulations.cli.files import REPRO, directory_of, make_directory, write_files, write_repro
from simulations.cli.grammar import SEED_MAX, SimCommand, command_text
from simulations.cli.shown import print_summary, summary_json, tell_breach, tell_two_traces
from simulations.cli.sources import source_of
from simulations.commit import current_commit
from simulations.plan import NODES_MAX
from simulations.runs import Run
from simulations.scenarios import SCENARIOS
from simulations.summary import summary_of
from simulations.swarm import is_same

source_argument = click.argument("reference", metavar="SCENARIO", type=click.Path(readable=False))
nodes_option = click.option(
    "--nodes",
    "node_count",
    type=click.IntRange(1, NODES_MAX),
    help="How many devices, instead of the scenario's own number.",
)
wire_option = click.option(
    "--wire", is_flag=True, help="Encode and verify every message and row as meshd does: slow."
)


@click.command("list", cls=SimCommand, epilog=examples("meshctl sim list"))
@pass_session
def list_(session: Session) -> int:
    """Name the scenarios that come with the simulator."""
    if session.is_json:
        found = [{"name": one.name, "summary": one.summary} for one in SCENARIOS.values()]
        print_json({"answer": "scenarios", "scenarios": found})
    else:
        columns = (Column("SCENARIO"), Column("WHAT HAPPENS", width_max=120))
        print_table(columns, ((one.name, one.summary) for one in SCENARIOS.values()))
    return Exit.DONE


@click.command(
    cls=SimCommand,
    epilog=examples(
        "meshctl sim run split --seed 7",
        "meshctl sim run my-mesh.toml --nodes 20 --out results",
        "meshctl sim run meshd-sim-split-7/repro.json --twice",
    ),
)
@source_argument
@click.option(
    "--seed", type=click.IntRange(0, SEED_MAX), help="Which run; else the scenario's own seed."
)
@nodes_option
@wire_option
@click.option("--twice", is_flag=True, help="Run it twice, and compare the traces.")
@click.option(
    "--out",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path, readable=False),
    help="Write the trace, its picture and all numbers there.",
)
@pass_session
def run(
    session: Session,
    reference: str,
    seed: int | None,
    node_count: int | None,
    *,
    wire: bool,
    twice: bool,
    out: Path | None,
) -> int:
    """Run SCENARIO (a name, a .toml file or a plan's .json) once, and say what held.

    A run that breaks something is run again, since it must break the same, and leaves a plan file
    with which it can be replayed and shrunk.
    """
    source = source_of(reference, node_count=node_count, exercises_wire=wire)
    plan = source.plan(seed)
    if out is not None:
        make_directory(out)
    done = source.run(plan)
    summary = summary_of(done, commit=current_commit(), repeat_with=source.repeat_with(plan.seed))
    again = source.run(plan) if twice or done.error is not None else None
    if out is not None:
        write_files(out, done, summary)
    if session.is_json:
        print_json({"answer": "simulation", **summary_json(summary)})
    else:
        print_summary(summary, is_twice=twice)
    if again is not None and not is_same(done, again):
        tell_two_traces(done, again)
        return Exit.NOT_DETERMINISTIC
    if done.error is None:
        return Exit.DONE
    tell_breach(done)
    _tell_repro(done, out, commit=summary.commit, repeat_with=summary.repeat_with)
    return Exit.NO


def _tell_repro(done: Run, out: Path | None, *, commit: str, repeat_with: str) -> None:
    """Leave the plan of a run that broke, and say what can be done with it."""
    directory = out or directory_of(done)
    path = directory / REPRO
    try:
        if out is None:
            make_directory(directory)
            write_repro(path, done, commit=commit)
    except FileFailed as error:
        note(f"  {error.format_message()}; repeat it with: {repeat_with}")
        return
    note(f"  replay: {command_text('replay', str(path))}")
    note(f"  shrink: {command_text('shrink', str(path))}")
