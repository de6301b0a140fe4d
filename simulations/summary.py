"""What came of a run, in numbers: `summary.json`.

Its shape is stable: fields are only added, and `version` changes when one changes its meaning.
Times are microseconds of virtual time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from msgspec import Struct

from simulations.invariants import INVARIANTS, in_order
from simulations.runs import Run

SUMMARY_VERSION = 1


class State(enum.StrEnum):
    """What a run says of an invariant."""

    HELD = "held"
    BROKE = "broke"
    NOT_EXERCISED = "not exercised"  # nothing happened at which it could have broken


class TaskCounts(Struct, frozen=True, kw_only=True):
    """What became of the tasks of a run. `lost`: accepted by a store that was lost."""

    submitted: int
    accepted: int
    complete: int
    failed: int
    cancelled: int
    lost: int


class Latencies(Struct, frozen=True, kw_only=True):
    """How long tasks took from accepted to decided: nearest ranks over `count` tasks."""

    count: int
    p50_us: int
    p95_us: int
    p99_us: int


class InvariantState(Struct, frozen=True, kw_only=True):
    """One invariant, and how often it was looked at."""

    name: str
    text: str
    state: State
    looked_count: int


class Breach(Struct, frozen=True, kw_only=True):
    """What broke. `invariant` is the error's name where it was none of the invariants."""

    invariant: str
    message: str
    at_us: int


class Summary(Struct, frozen=True, kw_only=True):
    """One run. `breach` is None if everything held; `expected_breach` is what broke as planned."""

    version: int = SUMMARY_VERSION
    scenario: str
    seed: int
    commit: str
    digest: str  # BLAKE3 of the lines of trace.jsonl, in hexadecimal
    repeat_with: str
    node_count: int
    events_count: int
    virtual_us: int
    tasks: TaskCounts
    latencies: Latencies | None  # None: no task was decided
    invariants: tuple[InvariantState, ...]
    breach: Breach | None
    expected_breach: str | None
    seen: dict[str, int]  # how often each kind of thing happened


def summary_of(run: Run, *, commit: str, repeat_with: str) -> Summary:
    """Return a run in numbers."""
    report, plan = run.report, run.runner.plan
    breach = None
    if run.error is not None:
        breach = Breach(
            invariant=str(run.broke), message=str(run.error), at_us=run.runner.world.engine.now_us
        )
    return Summary(
        scenario=plan.name,
        seed=plan.seed,
        commit=commit,
        digest=report.digest,
        repeat_with=repeat_with,
        node_count=plan.node_count,
        events_count=report.events_count,
        virtual_us=report.virtual_us,
        tasks=TaskCounts(
            submitted=report.submitted_count,
            accepted=report.accepted_count,
            complete=report.complete_count,
            failed=report.failed_count,
            cancelled=report.cancelled_count,
            lost=report.lost_count,
        ),
        latencies=latencies_of(report.latencies_us),
        invariants=states_of(report.looked, broke=run.broke or report.broke),
        breach=breach,
        expected_breach=report.broke if run.error is None else None,
        seen=report.seen,
    )


def latencies_of(durations_us: Sequence[int]) -> Latencies | None:
    """Return the percentiles of sorted durations, None of none."""
    if not durations_us:
        return None
    return Latencies(
        count=len(durations_us),
        p50_us=_nearest_rank(durations_us, 50),
        p95_us=_nearest_rank(durations_us, 95),
        p99_us=_nearest_rank(durations_us, 99),
    )


def states_of(looked: Mapping[str, int], *, broke: str | None) -> tuple[InvariantState, ...]:
    """Return the state of every invariant, and of whatever else broke."""
    names = [*INVARIANTS, *looked, *([broke] if broke else [])]
    return tuple(
        InvariantState(
            name=name,
            text=INVARIANTS.get(name, ""),
            state=_state(name, looked.get(name, 0), broke),
            looked_count=looked.get(name, 0),
        )
        for name in in_order(names)
    )


def _state(name: str, looked_count: int, broke: str | None) -> State:
    if name == broke:
        return State.BROKE
    return State.HELD if looked_count else State.NOT_EXERCISED


def _nearest_rank(ordered: Sequence[int], percent: int) -> int:
    return ordered[-(-len(ordered) * percent // 100) - 1]
