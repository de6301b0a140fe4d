"""What people see of a run: its numbers, what broke, and where two runs came apart."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import cast

import click
import msgspec

from meshd.cli.output import Cell, Column, note, print_fields, print_table
from simulations.runs import Run
from simulations.summary import Latencies, Summary
from simulations.trace_diff import difference_text, first_difference


def summary_json(summary: Summary) -> dict[str, object]:
    """Return a summary as `summary.json` has it."""
    return cast(dict[str, object], msgspec.to_builtins(summary))


def print_summary(summary: Summary, *, is_twice: bool) -> None:
    """Print what `summary.json` says, for people."""
    print_fields(_fields(summary, is_twice=is_twice))
    click.echo()
    print_invariants(summary)
    if summary.expected_breach is not None:
        click.echo(f"\n{summary.expected_breach} broke, as the plan expects")
    elif summary.breach is None:
        click.echo("\nall held")


def print_invariants(summary: Summary) -> None:
    """Print a line for each invariant: its state, how often it was looked at, what it says."""
    columns = (
        Column("INVARIANT"),
        Column("STATE"),
        Column("LOOKED AT", is_number=True),
        Column("WHAT MUST HOLD", width_max=80),
    )
    rows = ((one.name, one.state.value, one.looked_count, one.text) for one in summary.invariants)
    print_table(columns, rows)


def seconds(time_us: int) -> str:
    """Return a virtual time as people read it, to the millisecond."""
    return f"{time_us // 1_000_000}.{time_us // 1_000 % 1_000:03} s"


def tell_breach(run: Run) -> None:
    """Say on standard error what broke and when; of a node that raised, where."""
    assert run.error is not None, "a run that broke something"  # noqa: S101 - the caller's part
    at_us = run.runner.world.engine.now_us
    note(f"meshctl: at {seconds(at_us)} of virtual time, {run.broke} broke: {run.error}")
    if run.error.__cause__ is not None:
        for line in "".join(traceback.format_exception(run.error.__cause__)).splitlines():
            note(f"  {line}")


def tell_two_traces(one: Run, other: Run) -> None:
    """Say on standard error where two runs of one plan came apart."""
    note("meshctl: not deterministic: the same plan gave two traces")
    difference = first_difference(one.lines, other.lines)
    if difference is None:
        note(f"  the traces are the same, the ends are not: {one.error} / {other.error}")
        return
    for line in difference_text(difference, names=("first", "second")).splitlines():
        note(f"  {line}")


def _fields(summary: Summary, *, is_twice: bool) -> Iterator[tuple[str, Cell]]:
    tasks = summary.tasks
    yield "scenario", summary.scenario
    yield "seed", summary.seed
    yield "commit", summary.commit
    yield "devices", summary.node_count
    yield "events", f"{summary.events_count:,}"
    yield "virtual time", seconds(summary.virtual_us)
    yield (
        "tasks",
        f"{tasks.accepted} accepted of {tasks.submitted}: {tasks.complete} complete,"
        f" {tasks.failed} failed, {tasks.cancelled} cancelled, {tasks.lost} lost",
    )
    yield "latency", _latency(summary.latencies)
    yield "digest", summary.digest + (" twice" if is_twice else "")


def _latency(latencies: Latencies | None) -> str | None:
    if latencies is None:
        return None
    return (
        f"p50 {seconds(latencies.p50_us)}, p95 {seconds(latencies.p95_us)},"
        f" p99 {seconds(latencies.p99_us)} from accepted to decided, of {latencies.count}"
    )
