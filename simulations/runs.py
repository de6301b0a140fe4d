"""Carries one plan out and keeps what came of it, whether it held or not."""

from __future__ import annotations

from dataclasses import dataclass

from simulations.errors import EventBudgetSpent, InvariantBroken, NotReached, SimulationError
from simulations.plan import Plan
from simulations.runner import Report, Runner
from simulations.trace import TraceLevel
from simulations.world import Blueprint

STORM = "S11"


class _Stopped(Exception):
    """The time at which a run was to stop has come: no error."""


@dataclass(frozen=True, slots=True)
class Run:
    """A plan that was carried out. `error` is what ended it, None if everything held."""

    runner: Runner
    report: Report
    error: SimulationError | None
    was_stopped: bool = False

    @property
    def broke(self) -> str | None:
        """The name of what broke, None if everything held."""
        return None if self.error is None else name_of_breach(self.error)

    @property
    def lines(self) -> tuple[str, ...]:
        """The canonical trace."""
        return tuple(self.runner.world.trace.lines())


def carry_out(
    plan: Plan,
    blueprint: Blueprint,
    *,
    repeat_with: str,
    until_us: int | None = None,
    trace: TraceLevel = TraceLevel.FULL,
) -> Run:
    """Carry a plan out, up to `until_us` of virtual time if that is given."""
    runner = Runner(plan, blueprint, repeat_with=repeat_with, trace=trace)
    if until_us is not None:
        runner.world.engine.at(until_us, _stop)
    try:
        report = runner.run()
    except _Stopped:
        return Run(runner, runner.report(broke=None), None, was_stopped=True)
    except SimulationError as error:
        return Run(runner, runner.report(broke=name_of_breach(error)), error)
    return Run(runner, report, None)


def name_of_breach(error: SimulationError) -> str:
    """Return what an error is an error of: the invariant, else the kind of error.

    Two runs that broke the same have the same name; what exactly happened may differ.
    """
    if isinstance(error, EventBudgetSpent):
        return STORM
    if isinstance(error, InvariantBroken):
        return error.invariant
    if isinstance(error, NotReached):
        # "not within 120 s: L2: every task to be decided"
        parts = [part.strip() for part in str(error).split(":")]
        return next((part for part in parts if _is_invariant(part)), "NotReached")
    kind = type(error).__name__
    return kind if error.__cause__ is None else f"{kind}({type(error.__cause__).__name__})"


def _is_invariant(text: str) -> bool:
    return text[:1] in ("S", "L") and text[1:].isdecimal()


def _stop() -> None:
    raise _Stopped
