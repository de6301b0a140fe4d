"""Many seeds of one scenario: what broke, and whether what should happen sometimes did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from simulations.errors import BadScenario
from simulations.plan import Plan
from simulations.runs import Run, carry_out
from simulations.trace import TraceLevel
from simulations.world import Blueprint

BAD_SCENARIO = "bad scenario"
WORKER_DIED = "worker died"


class SeedResult(Struct, frozen=True, kw_only=True):
    """What came of one seed. `sometimes` is what its plan wants to see in some run."""

    seed: int
    broke: str | None = None
    message: str = ""
    digest: str = ""
    is_deterministic: bool = True
    events_count: int = 0
    virtual_us: int = 0
    accepted_count: int = 0
    complete_count: int = 0
    sometimes: tuple[str, ...] = ()
    seen: dict[str, int] = {}
    looked: dict[str, int] = {}

    @property
    def is_failure(self) -> bool:
        """Whether somebody must look at this seed."""
        return self.broke is not None or not self.is_deterministic


def result_of_seed(
    plan_of: Callable[[int], Plan],
    seed: int,
    blueprint: Blueprint,
    *,
    repeat_with: str,
    is_twice: bool = False,
) -> SeedResult:
    """Run a seed; one that breaks a second time too, since it must break the same."""
    try:
        plan = plan_of(seed)
    except BadScenario as error:
        return SeedResult(seed=seed, broke=BAD_SCENARIO, message=str(error))
    run = carry_out(plan, blueprint, repeat_with=repeat_with, trace=TraceLevel.DIGEST)
    is_deterministic = True
    if is_twice or run.error is not None:
        again = carry_out(plan, blueprint, repeat_with=repeat_with, trace=TraceLevel.DIGEST)
        is_deterministic = is_same(run, again)
    report = run.report
    return SeedResult(
        seed=seed,
        broke=run.broke,
        message=str(run.error or ""),
        digest=report.digest,
        is_deterministic=is_deterministic,
        events_count=report.events_count,
        virtual_us=report.virtual_us,
        accepted_count=report.accepted_count,
        complete_count=report.complete_count,
        sometimes=plan.expect.sometimes,
        seen=report.seen,
        looked=report.looked,
    )


def is_same(one: Run, other: Run) -> bool:
    """Say whether two runs were the same, to the last line of their traces and the last word."""
    return one.report.digest == other.report.digest and str(one.error) == str(other.error)


@dataclass(slots=True)
class SwarmTally:
    """Sums of a swarm, whatever order its seeds come in."""

    runs_count: int = 0
    events_count: int = 0
    virtual_us: int = 0
    accepted_count: int = 0
    complete_count: int = 0
    failures: list[SeedResult] = field(default_factory=list)
    wanted: Counter[str] = field(default_factory=Counter)  # in how many seeds' plans
    seen_seeds: Counter[str] = field(default_factory=Counter)  # in how many seeds it happened
    looked: Counter[str] = field(default_factory=Counter)

    def add(self, result: SeedResult) -> None:
        """Count a seed."""
        self.runs_count += 1
        self.events_count += result.events_count
        self.virtual_us += result.virtual_us
        self.accepted_count += result.accepted_count
        self.complete_count += result.complete_count
        self.wanted.update(result.sometimes)
        self.seen_seeds.update(name for name, count in result.seen.items() if count)
        self.looked.update(result.looked)
        if result.is_failure:
            self.failures.append(result)

    @property
    def sometimes(self) -> dict[str, int]:
        """In how many seeds each thing happened that should happen sometimes."""
        return {name: self.seen_seeds[name] for name in sorted(self.wanted)}

    @property
    def never(self) -> Sequence[str]:
        """What should happen sometimes, and never did."""
        return [name for name, count in self.sometimes.items() if not count]

    @property
    def is_void(self) -> bool:
        """Whether anything that the scenario is about never happened: who knows if it held?"""
        return bool(self.never)

    @property
    def in_order(self) -> list[SeedResult]:
        """The seeds that failed, by number."""
        return sorted(self.failures, key=lambda result: result.seed)
