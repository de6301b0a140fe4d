"""The checks find what must never happen: each is shown a node with one defect planted in it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from msgspec.structs import replace
from support.planted import (
    Mutation,
    executes_twice,
    forgets,
    keeps_its_store_id,
    never_writes,
    planted,
)

from scheduler.batch import BATCH_ROW, DECISION_ROW
from simulations.budget import Budget
from simulations.checks import LATER_STATES
from simulations.errors import InvariantBroken, SimulationError
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.runner import Runner
from simulations.scenarios import scenario
from simulations.world import Blueprint
from wire import effects as do
from wire.answers import ReceiptView, TaskList, TaskView
from wire.effects import Effect


def run(plan: Plan, blueprint: Blueprint) -> None:
    Runner(plan, blueprint, repeat_with="see the test").run()


def does_not_wait(effect: Effect) -> Sequence[Effect]:
    """Do at once what should wait for the disk."""
    return [do.Persist(effect.rows), *effect.then] if isinstance(effect, do.Persist) else [effect]


def chatters(effect: Effect) -> Sequence[Effect]:
    return [effect] * 100 if isinstance(effect, do.Send) else [effect]


def says_everything_is_pending(effect: Effect) -> Sequence[Effect]:
    if isinstance(effect, do.Answer) and isinstance(effect.value, TaskList):
        tasks = [replace(view, state="pending", is_decided=False) for view in effect.value.tasks]
        return [replace(effect, value=replace(effect.value, tasks=tasks))]
    return [effect]


def reports_another_exit_code_on_wednesdays() -> Mutation:
    views = iter(range(10_000))

    def mutate(effect: Effect) -> Sequence[Effect]:
        if isinstance(effect, do.Answer) and isinstance(effect.value, TaskView):
            return [replace(effect, value=replace(effect.value, exit_code=next(views)))]
        return [effect]

    return mutate


def gives_receipts_without_leases(effect: Effect) -> Sequence[Effect]:
    """Cut the lease out of every receipt."""
    if isinstance(effect, do.Answer) and isinstance(effect.value, ReceiptView):
        receipt = msgspec.msgpack.decode(effect.value.receipt)
        receipt["lease"] = None
        return [
            replace(effect, value=replace(effect.value, receipt=msgspec.msgpack.encode(receipt)))
        ]
    return [effect]


@pytest.mark.parametrize(
    ("mutate", "invariant"),
    [
        (does_not_wait, "S1"),
        (never_writes(BATCH_ROW), "S1"),
        (never_writes(DECISION_ROW), "S8"),
        (gives_receipts_without_leases, "S3"),
        (executes_twice, "S5"),
        (chatters, "S11"),
        (says_everything_is_pending, "S6"),
        (reports_another_exit_code_on_wednesdays(), "S2"),
    ],
)
def test_a_planted_defect_is_found_without_any_fault(mutate: Mutation, invariant: str) -> None:
    with pytest.raises(InvariantBroken, match=f"^{invariant}"):
        run(scenario("calm").plan(1), planted(mutate))


def test_a_steward_that_keeps_its_store_id_after_losing_its_disk_is_found() -> None:
    plan = scenario("submitter-lost-disk").plan(1)
    again = replace(plan.steps[1], at_us=60_000_000)
    plan = replace(plan, steps=(*plan.steps, again))
    with pytest.raises(InvariantBroken, match="a store that it lost"):
        run(plan, keeps_its_store_id())


def test_a_node_that_loses_an_accepted_task_in_a_restart_is_found() -> None:
    plan = scenario("submitter-crash").plan(1)
    with pytest.raises(SimulationError, match=r"S1|every task to be decided"):
        run(plan, forgets(BATCH_ROW))


def test_a_work_limit_is_checked_where_the_work_is() -> None:
    runner = Runner(scenario("calm").plan(1), MESH_NODE, repeat_with="")
    runner.world.checks.budget = Budget(leases_max=1)
    with pytest.raises(InvariantBroken, match=r"S5: .* works under 2 leases"):
        runner.run()


def test_states_may_be_skipped_in_views_but_no_end_is_left() -> None:
    assert LATER_STATES["pending"] >= {"executing", "complete", "settled", "failed", "pending"}
    assert LATER_STATES["executing"] >= {"pending"}
    assert LATER_STATES["complete"] == {"complete", "settled"}
    for end in ("settled", "failed", "cancelled"):
        assert LATER_STATES[end] == {end}
