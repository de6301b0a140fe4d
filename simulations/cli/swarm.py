"""`meshctl sim swarm`: many seeds of a scenario at once, over several processes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import Session, examples, pass_session
from meshd.cli.output import note, print_fields, print_json
from simulations.cli.grammar import SimCommand, seeds
from simulations.cli.run import nodes_option, source_argument, wire_option
from simulations.cli.shown import seconds
from simulations.cli.sources import Source, source_of
from simulations.commit import current_commit
from simulations.swarm import WORKER_DIED, SeedResult, SwarmTally
from simulations.workers import WorkerDied, Workers

JOBS_MAX = 256
LINES_COUNT = 10  # of progress, where there is no terminal to redraw


@click.command(
    cls=SimCommand,
    epilog=examples(
        "meshctl sim swarm random --seeds 0..999 --jobs 2",
        "meshctl sim swarm my-mesh.toml --seeds 0..99 --output json",
    ),
)
@source_argument
@click.option(
    "--seeds",
    "seeds_range",
    metavar="A..B",
    default="0..99",
    show_default=True,
    callback=seeds,
    help="Which seeds, both ends included.",
)
@click.option(
    "--jobs",
    "jobs_count",
    type=click.IntRange(1, JOBS_MAX),
    help="How many processes; else one for each CPU.",
)
@click.option(
    "--failures-max",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Stop after so many seeds that failed.",
)
@nodes_option
@wire_option
@click.option("--twice", is_flag=True, help="Run each seed twice, and compare the traces.")
@pass_session
def swarm(
    session: Session,
    reference: str,
    seeds_range: Sequence[int],
    jobs_count: int | None,
    failures_max: int,
    node_count: int | None,
    *,
    wire: bool,
    twice: bool,
) -> int:
    """Run many seeds of SCENARIO, and say which broke what.

    A swarm in which something that the scenario is about never happened exits with 1.
    """
    source = source_of(reference, node_count=node_count, exercises_wire=wire, is_twice=twice)
    source.plan(seeds_range[0])  # what is wrong with the scenario is wrong with every seed
    tally = SwarmTally()
    jobs_count = min(jobs_count or len(os.sched_getaffinity(0)), len(seeds_range))
    results = Workers(source.run_seed, jobs_count=jobs_count).results(seeds_range)
    try:
        with contextlib.closing(results), _progress(len(seeds_range)) as advance:
            for seed, result in results:
                tally.add(_told(seed, result))
                advance(tally)
                if len(tally.failures) >= failures_max:
                    break
    except KeyboardInterrupt:
        note(f"meshctl: interrupted after {tally.runs_count} of {len(seeds_range)} seeds")
        raise
    return _tell(session, source, tally, seeds_count=len(seeds_range))


def _told(seed: int, result: SeedResult | WorkerDied) -> SeedResult:
    if isinstance(result, SeedResult):
        return result
    end = f"its process ended with {result.exit_code}"
    return SeedResult(seed=seed, broke=WORKER_DIED, message=end)


# Progress, on standard error.


@contextlib.contextmanager
def _progress(seeds_count: int) -> Iterator[Callable[[SwarmTally], None]]:
    """Give what is told of every seed, and shows it."""
    if sys.stderr.isatty():
        with _bar(seeds_count) as advance:
            yield advance
    else:
        yield lambda tally: _line(tally, seeds_count)


@contextlib.contextmanager
def _bar(seeds_count: int) -> Iterator[Callable[[SwarmTally], None]]:
    from rich.console import Console  # slow to import
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeLeft())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("seeds", total=seeds_count)

        def advance(tally: SwarmTally) -> None:
            text = f"seeds, {len(tally.failures)} failed" if tally.failures else "seeds"
            bar.update(task, completed=tally.runs_count, description=text)

        yield advance


def _line(tally: SwarmTally, seeds_count: int) -> None:
    every = max(1, seeds_count // LINES_COUNT)
    if tally.runs_count % every == 0 and tally.runs_count < seeds_count:
        note(f"{tally.runs_count} of {seeds_count} seeds, {len(tally.failures)} failed")


# The end.


def _tell(session: Session, source: Source, tally: SwarmTally, *, seeds_count: int) -> int:
    if session.is_json:
        print_json(_json(source, tally, seeds_count))
    else:
        _print(source, tally, seeds_count)
    for result in tally.in_order:
        _tell_failure(source, result)
    if tally.runs_count < seeds_count:
        note(f"meshctl: stopped after {tally.runs_count} of {seeds_count} seeds: enough failed")
    if any(not result.is_deterministic for result in tally.failures):
        return Exit.NOT_DETERMINISTIC
    if tally.failures:
        return Exit.NO
    if tally.is_void:
        note(f"meshctl: void: no seed saw {', or '.join(tally.never)}")
        note("  that all held says nothing of it: run more seeds, or mend the scenario")
        return Exit.NO
    return Exit.DONE


def _tell_failure(source: Source, result: SeedResult) -> None:
    what = f"{result.broke}: {result.message.removeprefix(f'{result.broke}: ')}"
    if not result.is_deterministic:
        what = f"not deterministic: it gave two traces; {what if result.broke else 'all held'}"
    note(f"meshctl: seed {result.seed}: {' '.join(what.split())}")
    note(f"  {source.repeat_with(result.seed)}")


def _print(source: Source, tally: SwarmTally, seeds_count: int) -> None:
    print_fields(
        [
            ("scenario", source.reference),
            ("commit", current_commit()),
            ("seeds", f"{tally.runs_count} of {seeds_count}, {len(tally.failures)} failed"),
            ("events", f"{tally.events_count:,}"),
            ("virtual time", seconds(tally.virtual_us)),
            ("tasks", f"{tally.accepted_count} accepted, {tally.complete_count} complete"),
            *(
                (f"sometimes {name}", f"in {count} seeds" if count else "never")
                for name, count in tally.sometimes.items()
            ),
        ]
    )
    if not tally.failures and not tally.is_void:
        click.echo("\nall held")


def _json(source: Source, tally: SwarmTally, seeds_count: int) -> dict[str, object]:
    return {
        "answer": "swarm",
        "scenario": source.reference,
        "commit": current_commit(),
        "seeds_count": seeds_count,
        "runs_count": tally.runs_count,
        "events_count": tally.events_count,
        "virtual_us": tally.virtual_us,
        "accepted_count": tally.accepted_count,
        "complete_count": tally.complete_count,
        "looked": dict(sorted(tally.looked.items())),
        "seen_in_seeds": dict(sorted(tally.seen_seeds.items())),
        "sometimes": tally.sometimes,
        "is_void": tally.is_void,
        "failures": [
            {
                "seed": result.seed,
                "broke": result.broke,
                "message": result.message,
                "is_deterministic": result.is_deterministic,
                "repeat_with": source.repeat_with(result.seed),
            }
            for result in tally.in_order
        ],
    }
