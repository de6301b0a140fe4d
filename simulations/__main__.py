"""`python -m simulations`: run a scenario once, or for many seeds, and say how to repeat it.

Exits with 0 when everything held, 1 when something broke, 2 for a bad scenario, and 3 when a seed
gave two traces.
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import click
import msgspec
from msgspec.structs import replace

from simulations.errors import BadScenario, SimulationError
from simulations.mesh_node import MESH_NODE
from simulations.runner import Report, Runner
from simulations.scenarios import SCENARIOS, scenario

BROKEN = 1
NOT_DETERMINISTIC = 3


@click.command()
@click.option("--scenario", "name", default="calm", show_default=True, help="Which one to run.")
@click.option("--seed", default=0, show_default=True, help="The seed of the first run.")
@click.option("--count", default=1, show_default=True, help="How many seeds to run.")
@click.option("--wire", is_flag=True, help="Encode and verify every message and row as meshd does.")
@click.option("--twice", is_flag=True, help="Run each seed twice and compare the traces.")
@click.option("--trace", "trace_to", type=click.Path(path_type=Path), help="Write the last trace.")
@click.option("--list", "lists", is_flag=True, help="Print the scenarios.")
def main(
    name: str,
    seed: int,
    count: int,
    trace_to: Path | None,
    *,
    wire: bool,
    twice: bool,
    lists: bool,
) -> None:
    """Run a mesh in virtual time while things go wrong.

    Example: python -m simulations --scenario split --seed 7 --trace split.jsonl
    """
    if lists:
        for one in SCENARIOS.values():
            click.echo(f"{one.name:20} {one.summary}")
        return
    try:
        scenario(name)
    except BadScenario as error:
        raise click.UsageError(str(error)) from error
    for number in range(seed, seed + count):
        first = _run(name, number, wire=wire, trace_to=trace_to)
        if twice and _run(name, number, wire=wire, trace_to=None).digest != first.digest:
            click.echo(f"seed {number} of {name} gave two traces", err=True)
            raise SystemExit(NOT_DETERMINISTIC)


def _run(name: str, seed: int, *, wire: bool, trace_to: Path | None) -> Report:
    plan = replace(scenario(name).plan(seed), exercises_wire=wire)
    runner = Runner(plan, MESH_NODE, repeat_with=repeat_with(name, seed, wire=wire))
    started_s = time.process_time()  # of this process: nothing simulated depends on it
    try:
        report = runner.run()
    except SimulationError as error:
        click.echo("".join(traceback.format_exception(error)), err=True)
        raise SystemExit(BROKEN) from error
    finally:
        if trace_to is not None:
            trace_to.write_text("".join(f"{line}\n" for line in runner.world.trace.lines()))
    seconds = time.process_time() - started_s
    counts = msgspec.to_builtins(report)
    del counts["seen"]
    facts = " ".join(f"{key}={value}" for key, value in counts.items())
    click.echo(f"{name} held: {facts} cpu_s={seconds:.2f}")
    return report


def repeat_with(name: str, seed: int, *, wire: bool = False) -> str:
    """Return the command that repeats a run."""
    command = f"python -m simulations --scenario {name} --seed {seed}"
    return f"{command} --wire" if wire else command


if __name__ == "__main__":
    main()
