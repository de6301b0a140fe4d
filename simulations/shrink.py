"""The smallest plan that still breaks the same: first fewer steps, then less of everything else.

Deterministic: the same plan and the same nodes shrink to the same plan, as long as neither bound
ends the search early. Where it does, the best plan found so far is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from simulations.ddmin import ddmin
from simulations.errors import BadScenario
from simulations.plan import Plan
from simulations.plan_checks import check_plan
from simulations.plan_edits import Edit, edits_of
from simulations.runs import carry_out
from simulations.steps import AnyStep
from simulations.trace import TraceLevel
from simulations.world import Blueprint

RUNS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Win:
    """A smaller plan that still breaks: what got smaller, and how many runs that took so far."""

    label: str
    plan: Plan
    runs_count: int


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest plan that was found. `is_minimal`: the search went on to its end."""

    plan: Plan
    runs_count: int
    is_minimal: bool


class Shrinker:
    """Searches for smaller plans that `still_breaks`, in at most `runs_max` runs.

    `is_out_of_time` is asked before each run, `on_win` told of every smaller plan.
    """

    def __init__(
        self,
        still_breaks: Callable[[Plan], bool],
        *,
        runs_max: int = RUNS_MAX,
        is_out_of_time: Callable[[], bool] = lambda: False,
        on_win: Callable[[Win], None] = lambda win: None,
    ) -> None:
        self.runs_count = 0
        self._still_breaks = still_breaks
        self._runs_max = runs_max
        self._is_out_of_time = is_out_of_time
        self._on_win = on_win
        self._is_spent = False
        self._tried: dict[bytes, bool] = {}

    def shrink(self, plan: Plan, *, broke_at_us: int | None = None) -> Shrunk:
        """Return the smallest plan found from one that breaks, at `broke_at_us` if known."""
        best = plan if broke_at_us is None else self._until(plan, broke_at_us)
        before = None
        while best != before and not self._is_spent:
            before = best
            best = self._with_fewer_steps(best)
            steps_count = len(best.steps)
            for edit in edits_of(best):
                best = self._edited(best, edit)
                # A device that left may have taken steps with it: the places are others now.
                if self._is_spent or len(best.steps) != steps_count:
                    break
        return Shrunk(best, self.runs_count, is_minimal=not self._is_spent)

    def _until(self, plan: Plan, broke_at_us: int) -> Plan:
        """Leave out at once what never happened."""
        steps = tuple(step for step in plan.steps if step.at_us <= broke_at_us)
        return self._with_steps(plan, steps) or plan

    def _with_fewer_steps(self, plan: Plan) -> Plan:
        best = plan

        def breaks(steps: tuple[AnyStep, ...]) -> bool:
            nonlocal best
            smaller = self._with_steps(best, steps)
            best = smaller or best
            return smaller is not None

        ddmin(plan.steps, breaks)
        return best

    def _with_steps(self, plan: Plan, steps: tuple[AnyStep, ...]) -> Plan | None:
        """Return the plan with these steps alone if it breaks, and is smaller."""
        smaller = replace(plan, steps=steps)
        if len(steps) >= len(plan.steps) or not self._breaks(smaller):
            return None
        self._win(f"{len(plan.steps)} -> {len(steps)} steps", smaller)
        return smaller

    def _edited(self, plan: Plan, edit: Edit) -> Plan:
        """Return the plan with one edit made as often as it helps."""
        best, steps_count = plan, len(plan.steps)
        while len(best.steps) == steps_count:
            smaller = next(filter(self._breaks, edit.candidates(best)), None)
            if smaller is None:
                break
            self._win(edit.label, smaller)
            best = smaller
        return best

    def _win(self, label: str, plan: Plan) -> None:
        self._on_win(Win(label, plan, self.runs_count))

    def _breaks(self, plan: Plan) -> bool:
        key = msgspec.json.encode(plan)
        if key not in self._tried:
            self._is_spent |= self.runs_count >= self._runs_max or self._is_out_of_time()
            if self._is_spent:
                return False
            self._tried[key] = self._run(plan)
        return self._tried[key]

    def _run(self, plan: Plan) -> bool:
        try:
            check_plan(plan)
        except BadScenario:
            return False  # no plan at all, and no run
        self.runs_count += 1
        return self._still_breaks(plan)


def breaks_like(broke: str, blueprint: Blueprint) -> Callable[[Plan], bool]:
    """Return what says whether a plan breaks the same: other errors are other failures."""

    def breaks(plan: Plan) -> bool:
        run = carry_out(plan, blueprint, repeat_with="a step of shrinking", trace=TraceLevel.DIGEST)
        return run.broke == broke

    return breaks
