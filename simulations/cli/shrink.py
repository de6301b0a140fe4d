"""`meshctl sim shrink`: the smallest plan that still breaks the same."""

from __future__ import annotations

import time
from pathlib import Path

import click

from meshd.cli.exits import Exit
from meshd.cli.files import check_writable, writing
from meshd.cli.grammar import CommandFailed, Session, duration_us, examples, pass_session
from meshd.cli.output import note, print_json
from simulations.cli.grammar import SimCommand, command_text
from simulations.cli.sources import repro_of
from simulations.commit import current_commit
from simulations.errors import ExpectationFailed
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.plan_file import Repro, repro_to_json
from simulations.runs import Run, carry_out
from simulations.shrink import RUNS_MAX, Shrinker, Shrunk, Win, breaks_like

WITHIN_US_MIN, WITHIN_US_MAX = 1_000_000, 86_400_000_000
US_PER_S = 1_000_000


@click.command(
    cls=SimCommand,
    epilog=examples(
        "meshctl sim shrink meshd-sim-split-7/repro.json",
        "meshctl sim shrink repro.json --out small.json --within 10m",
    ),
)
@click.argument("repro_file", metavar="REPRO", type=click.Path(readable=False))
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Where the smaller plan goes; else beside REPRO, with .small in its name.",
)
@click.option(
    "--runs-max",
    type=click.IntRange(1),
    default=RUNS_MAX,
    show_default=True,
    help="Run at most so many plans.",
)
@click.option(
    "--within",
    "within_us",
    metavar="TIME",
    default="10m",
    show_default=True,
    callback=duration_us(WITHIN_US_MIN, WITHIN_US_MAX),
    help="Be done after this time, with the smallest plan found by then.",
)
@pass_session
def shrink(
    session: Session, repro_file: str, out: str | None, runs_max: int, within_us: int
) -> int:
    """Look for the smallest plan that breaks what the plan in REPRO breaks.

    First fewer steps, then fewer devices, smaller numbers and shorter times.
    """
    target = out or str(Path(repro_file).with_suffix(".small.json"))
    check_writable(target)
    plan = repro_of(repro_file).plan
    broken = _broken(plan, command_text("replay", repro_file))
    broke = str(broken.broke)
    note(f"it breaks {broke}, in {_size(plan)}")
    started_s = time.monotonic()
    shrinker = Shrinker(
        breaks_like(broke, MESH_NODE),
        runs_max=runs_max,
        is_out_of_time=lambda: (time.monotonic() - started_s) * US_PER_S > within_us,
        on_win=_tell_win,
    )
    shrunk = shrinker.shrink(plan, broke_at_us=broken.runner.world.engine.now_us)
    took_s = time.monotonic() - started_s
    smallest = _broken(shrunk.plan, command_text("replay", target))
    repro = Repro(plan=shrunk.plan, broke=str(smallest.error), commit=current_commit())
    with writing(target) as file:
        file.write(repro_to_json(repro))
    _tell(session, plan, shrunk, smallest, target=target, took_s=took_s)
    return Exit.DONE


def _broken(plan: Plan, repeat_with: str) -> Run:
    """Return the run of a plan that breaks something. Raises CommandFailed if nothing broke."""
    run = carry_out(plan, MESH_NODE, repeat_with=repeat_with)
    if run.error is None:
        raise CommandFailed(
            "there is nothing to shrink: the plan breaks nothing",
            Exit.USAGE,
            hint=f"see what it does with `{repeat_with}`",
        )
    if isinstance(run.error, ExpectationFailed):
        raise CommandFailed(
            f"there is nothing to shrink: {run.error}",
            Exit.USAGE,
            hint="a plan with less in it would not do what is expected either",
        )
    return run


def _tell_win(win: Win) -> None:
    note(f"run {win.runs_count}: {win.label}: {_size(win.plan)}")


def _size(plan: Plan) -> str:
    steps = "step" if len(plan.steps) == 1 else "steps"
    devices = "device" if plan.node_count == 1 else "devices"
    return f"{len(plan.steps)} {steps} on {plan.node_count} {devices}"


def _tell(
    session: Session, plan: Plan, shrunk: Shrunk, smallest: Run, *, target: str, took_s: float
) -> None:
    if session.is_json:
        print_json(
            {
                "answer": "shrunk",
                "broke": smallest.broke,
                "message": str(smallest.error),
                "steps_count": len(shrunk.plan.steps),
                "steps_count_before": len(plan.steps),
                "node_count": shrunk.plan.node_count,
                "node_count_before": plan.node_count,
                "runs_count": shrunk.runs_count,
                "is_minimal": shrunk.is_minimal,
                "file": target,
            }
        )
        return
    end = "" if shrunk.is_minimal else "; there was no time to go on: more may come off"
    click.echo(
        f"{_size(plan)} -> {_size(shrunk.plan)}, in {shrunk.runs_count} runs"
        f" and {took_s:.1f} s{end}"
    )
    click.echo(f"{smallest.broke} breaks: {smallest.error}")
    click.echo(f"replay: {command_text('replay', target)}")
