"""The shell on trio does with a mesh what the simulator does with it, microsecond by microsecond.

So what the simulator finds or fails to find in the nodes holds for the daemon's shell too, and the
shell is right in whatever order trio runs its tasks. Not here: CPU time, clocks that drift, devices
that sleep, crashes between two effects, and the daemon's own links, store, sandbox and DHT, which
these runs simulate.
"""

from __future__ import annotations

import pytest
from support.conformance import assert_same, simulated, under_shells, unordered

from simulations.engine import US_PER_S
from simulations.errors import BadScenario
from simulations.plan import Plan
from simulations.scenarios import scenario
from simulations.steps import Split, Submit

SMALL = (
    "calm",
    "cancel",
    "split",
    "split-and-heal",
    "one-way-cut",
    "bridge",
    "behind-nat",
    "flapping-link",
    "slow-and-lossy-wan",
    "executor-crash",
    "executor-dies-mid-lease",
    "submitter-crash",
    "submitter-lost-disk",
    "steward-loses-its-disk",
    "rolling-restarts",
    "total-outage",
    "full-disk",
    "restored-backup",
    "gray-executor",
    "stalls",
)
MANY_COUNT = 50
MANY_LINES_COUNT = 20_000


@pytest.mark.parametrize("name", SMALL)
def test_a_few_devices_leave_the_same_trace_under_the_shell(name: str) -> None:
    for seed in (1, 2):
        plan = scenario(name).plan(seed)
        assert_same(simulated(plan), under_shells(plan, order_seed=seed))


def test_devices_that_come_and_go_leave_the_same_trace_under_the_shell() -> None:
    plan = scenario("churn").plan(1)
    expected = simulated(plan)
    assert len(expected) > MANY_LINES_COUNT
    assert_same(expected, under_shells(plan, order_seed=1))


@pytest.mark.parametrize("name", ["suspended-laptop", "wrong-clocks"])
def test_what_cannot_be_done_to_a_shell_is_refused_not_left_out(name: str) -> None:
    with pytest.raises(BadScenario, match="under a shell"):
        under_shells(scenario(name).plan(1), order_seed=1)


def test_the_order_in_which_trio_runs_tasks_changes_nothing() -> None:
    plan = scenario("executor-crash").plan(3)
    first, *others = (under_shells(plan, order_seed=seed) for seed in range(4))
    for other in others:
        assert_same(first, other)


def test_fifty_devices_in_a_split_leave_the_same_trace_under_the_shell() -> None:
    submissions = tuple(
        Submit(at_us=3 * US_PER_S, node=node, count=12, work_us=300_000) for node in (7, 14, 21)
    )
    split = Split(at_us=3_500_000, groups=(tuple(range(25)),), for_us=2 * US_PER_S)
    plan = Plan(seed=5, node_count=MANY_COUNT, steps=(*submissions, split))
    expected = simulated(plan)
    assert len(expected) > MANY_LINES_COUNT
    assert_same(unordered(expected), unordered(under_shells(plan, order_seed=1)))
