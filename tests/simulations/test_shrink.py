"""A failure of many steps shrinks to those that make it, quickly and always to the same."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.planted import executes_twice, planted

from simulations import steps as do
from simulations.ddmin import ddmin
from simulations.engine import US_PER_S
from simulations.plan import SUBMITTER_ROLES, Plan
from simulations.plan_checks import check_plan
from simulations.plan_edits import edits_of, smaller_values
from simulations.runs import carry_out
from simulations.seeds import source
from simulations.shrink import Shrinker, Shrunk, Win, breaks_like
from simulations.steps import AnyStep

SECONDS_MAX = 60  # on a machine that is busy with other tests; by itself it takes a few
CULPRITS = frozenset({3, 17, 31})


def breaks_after_a_restart() -> Plan:
    """Return a plan of 40 steps; who executes anything after a restart shows the defect."""
    rng = source(7, "test of shrinking")
    steps: list[AnyStep] = [
        do.Submit(
            at_us=rng.randrange(2 * US_PER_S, 40 * US_PER_S),
            node=1,
            count=rng.randrange(1, 8),
            work_us=rng.randrange(100_000, 2 * US_PER_S),
        )
        for _ in range(14)
    ]
    for _ in range(10):
        steps.append(
            do.Freeze(
                at_us=rng.randrange(2 * US_PER_S, 40 * US_PER_S),
                who=rng.randrange(5),
                for_us=rng.randrange(100_000, 2 * US_PER_S),
            )
        )
        steps.append(
            do.Cut(
                at_us=rng.randrange(2 * US_PER_S, 40 * US_PER_S),
                origins=(rng.randrange(2), 2),
                targets=(3, 4),
                for_us=rng.randrange(100_000, 4 * US_PER_S),
            )
        )
    steps += (
        do.Crash(at_us=at_us, who=node, restart_after_us=rng.randrange(100_000, 2 * US_PER_S))
        for at_us, node in ((9_123_456, 0), (11_234_567, 2), (13_345_678, 3), (15_456_789, 4))
    )
    steps += (
        do.Worsen(at_us=5_000_000 + node, origins=(node,), latency_us=30_000, for_us=9_000_000)
        for node in (0, 2)
    )
    steps.sort(key=lambda step: step.at_us)
    return Plan(seed=8, node_count=5, roles={1: SUBMITTER_ROLES}, steps=tuple(steps))


def test_a_failure_of_forty_steps_shrinks_to_its_core_in_seconds() -> None:
    plan, nodes = breaks_after_a_restart(), planted(executes_twice, from_boot=2)
    check_plan(plan)
    assert len(plan.steps) == 40
    broken = carry_out(plan, nodes, repeat_with="see the test")
    assert broken.broke == "S5"
    wins: list[Win] = []
    started_s = time.monotonic()
    shrinker = Shrinker(breaks_like("S5", nodes), on_win=wins.append)
    shrunk = shrinker.shrink(plan, broke_at_us=broken.runner.world.engine.now_us)
    took_s = time.monotonic() - started_s
    sys.stdout.write(f"{len(shrunk.plan.steps)} steps, {shrunk.runs_count} runs, {took_s:.1f} s\n")
    # A process that started twice, and work for it.
    assert {type(step) for step in shrunk.plan.steps} == {do.Submit, do.Crash}
    assert len(shrunk.plan.steps) == 2
    assert shrunk.plan.node_count < plan.node_count
    assert shrunk.is_minimal
    assert wins[-1].plan == shrunk.plan
    assert carry_out(shrunk.plan, nodes, repeat_with="").broke == "S5"
    assert took_s < SECONDS_MAX


def shrink(plan: Plan, breaks: Callable[[Plan], bool], *, runs_max: int = 2_000) -> Shrunk:
    return Shrinker(breaks, runs_max=runs_max).shrink(plan)


def mentions(plan: Plan, *times_us: int) -> bool:
    return set(times_us) <= {step.at_us for step in plan.steps}


def test_shrinking_is_the_same_every_time() -> None:
    plan = breaks_after_a_restart()

    def breaks(candidate: Plan) -> bool:
        return sum(isinstance(step, do.Cut) for step in candidate.steps) > 2

    assert shrink(plan, breaks) == shrink(plan, breaks)


def test_steps_that_leave_with_their_device_do_not_confuse_the_edits_that_follow() -> None:
    steps = (
        do.Submit(at_us=1_000_000, node=2, work_us=700_000),
        do.Crash(at_us=2_000_000, who=0, restart_after_us=300_000),
    )
    plan = Plan(seed=7, node_count=3, steps=steps)

    def breaks(candidate: Plan) -> bool:
        kinds = {type(step) for step in candidate.steps}
        return do.Crash in kinds and (do.Submit in kinds or candidate.node_count < 3)

    shrunk = shrink(plan, breaks).plan
    assert [type(step) for step in shrunk.steps] == [do.Crash]
    assert shrunk.node_count == 1
    assert shrunk.steps[0] == do.Crash(at_us=0, who=0, restart_after_us=0)


def test_shrinking_ends_at_its_bound_with_the_smallest_plan_so_far() -> None:
    plan = breaks_after_a_restart()
    shrunk = shrink(plan, lambda candidate: len(candidate.steps) > 4, runs_max=6)
    assert shrunk.runs_count == 6
    assert not shrunk.is_minimal
    assert 4 < len(shrunk.plan.steps) < 40


def test_shrinking_ends_when_there_is_no_time_left() -> None:
    plan = breaks_after_a_restart()
    shrinker = Shrinker(lambda candidate: True, is_out_of_time=lambda: True)
    assert shrinker.shrink(plan) == Shrunk(plan, runs_count=0, is_minimal=False)


def test_what_is_no_plan_is_never_run() -> None:
    plan = Plan(
        seed=1,
        steps=(
            do.Submit(at_us=1, node=0, count=2),
            do.Backup(at_us=2, node=0),
            do.Restore(at_us=3, node=0),
            do.Cancel(at_us=4, submission=0, index=1),
        ),
    )
    run: list[Plan] = []

    def breaks(candidate: Plan) -> bool:
        check_plan(candidate)  # raises for a Restore without its Backup
        run.append(candidate)
        return any(isinstance(step, do.Restore | do.Cancel) for step in candidate.steps)

    shrunk = shrink(plan, breaks)
    assert len(run) == shrunk.runs_count > 0
    assert len(shrunk.plan.steps) == 2


def test_another_failure_does_not_count() -> None:
    nodes = planted(executes_twice, from_boot=2)
    plan = breaks_after_a_restart()
    assert breaks_like("S5", nodes)(plan)
    assert not breaks_like("S2", nodes)(plan)


def test_a_device_that_is_left_out_is_left_out_everywhere() -> None:
    plan = Plan(
        seed=1,
        node_count=4,
        roles={1: SUBMITTER_ROLES, 3: SUBMITTER_ROLES},
        absent=(3,),
        steps=(
            do.Split(at_us=0, groups=((1,), (2, 3))),
            do.Cut(at_us=0, origins=(0, 1), targets=(3,)),
            do.Crash(at_us=0, who=1),
            do.Crash(at_us=0, who="executor"),
            do.Submit(at_us=0, node=3),
        ),
    )
    without_1 = _candidates(plan, "device 1")[0]
    assert without_1 == replace(
        plan,
        node_count=3,
        roles={2: SUBMITTER_ROLES},
        absent=(2,),
        steps=(
            do.Split(at_us=0, groups=((1, 2),)),
            do.Cut(at_us=0, origins=(0,), targets=(2,)),
            do.Crash(at_us=0, who="executor"),
            do.Submit(at_us=0, node=2),
        ),
    )


def test_what_a_plan_expects_is_never_made_smaller() -> None:
    plan = breaks_after_a_restart()
    for edit in edits_of(plan):
        assert all(candidate.expect == plan.expect for candidate in edit.candidates(plan))


def test_steps_move_together_when_a_gap_gets_shorter() -> None:
    times_us = (100, 900, 900, 1_000)
    plan = Plan(seed=1, steps=tuple(do.Submit(at_us=at_us, node=0) for at_us in times_us))
    moved = [[step.at_us for step in one.steps] for one in _candidates(plan, "step 1: sooner")]
    assert moved[0] == [100, 100, 100, 200]
    assert [100, 500, 500, 600] in moved


def _candidates(plan: Plan, label: str) -> Sequence[Plan]:
    return next(list(edit.candidates(plan)) for edit in edits_of(plan) if edit.label == label)


@given(st.integers(-(10**12), 10**12))
def test_values_to_try_get_smaller_and_keep_their_sign(value: int) -> None:
    tried = list(smaller_values(value))
    assert all(abs(smaller) < abs(value) for smaller in tried)
    assert all(smaller == 0 or (smaller < 0) == (value < 0) for smaller in tried)
    assert len(set(tried)) == len(tried)
    assert bool(tried) == (value != 0)


@given(st.lists(st.integers(), unique=True, max_size=40), st.data())
def test_delta_debugging_leaves_exactly_what_makes_the_failure(
    items: list[int], data: st.DataObject
) -> None:
    culprits = data.draw(st.sets(st.sampled_from(items))) if items else set()
    left = ddmin(items, lambda part: culprits <= set(part))
    assert left == tuple(item for item in items if item in culprits)


@pytest.mark.parametrize("count_max", [1, 4, 13])
def test_delta_debugging_leaves_nothing_that_could_go_alone(count_max: int) -> None:
    def fails(part: tuple[int, ...]) -> bool:
        """Not monotonous: what matters is how many there are of three kinds."""
        kinds = {item % 3 for item in part}
        return len(part) >= count_max and len(kinds) >= min(3, count_max)

    left = ddmin(range(40), fails)
    assert fails(left)
    assert not any(fails(left[:at] + left[at + 1 :]) for at in range(len(left)))
