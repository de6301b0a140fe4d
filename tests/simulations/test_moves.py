"""Stewards that are gone are replaced, while a majority is there; else nobody pretends."""

from __future__ import annotations

import pytest

from simulations.device import HostSettings
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.submission import work_of
from simulations.trace import TraceLevel
from simulations.world import World, WorldSettings
from wire.answers import Accepted, ReceiptView, Refused, ResultView, TaskList, TaskView
from wire.commands import GetReceipt, GetResult, GetTask, ListTasks, Resubmit
from wire.ids import peer_text, task_id_from_text
from wire.tasks import Durability

TASKS_COUNT = 24
GONE_US = 30 * US_PER_S
# Longer than a steward is waited for: some tasks are decided before the move, some after it.
WORK_US = 20 * US_PER_S


def world_of(count: int = 6, *, seed: int = 1) -> World:
    host = HostSettings(steward_gone_us=GONE_US, workers_count=1)
    settings = WorldSettings(seed=seed, node_count=count, host=host, trace=TraceLevel.DIGEST)
    world = World(settings, MESH_NODE)
    world.start_all()
    world.run_for(6 * US_PER_S)
    return world


def accepted(
    world: World, *, work_us: int = WORK_US, durability: Durability = Durability.MESH
) -> Accepted:
    program = Program(work_us=work_us)
    work = work_of(TASKS_COUNT, program, deadline_us=3_600 * US_PER_S, durability=durability)
    request = world.submit(0, work)
    world.run_until(lambda: request.is_done, within_us=15 * US_PER_S, what="an answer")
    assert isinstance(request.last, Accepted), request.last
    return request.last


def keepers(world: World, batch: Accepted) -> list[int]:
    by_text = {peer_text(host.peer): host.index for host in world.hosts}
    return [by_text[text] for text in batch.stewards]


def views(world: World, node: int, batch: Accepted) -> list[TaskView]:
    requests = [world.ask(node, GetTask(task)) for task in batch.tasks]
    world.run_for(US_PER_S // 10)
    return [one.last for one in requests if isinstance(one.last, TaskView)]


def keeps_any(world: World, node: int) -> bool:
    """Say whether a device keeps tasks itself, other than one that asks those who do."""
    request = world.ask(node, ListTasks())
    world.run_for(US_PER_S // 10)
    return isinstance(request.last, TaskList) and bool(request.last.tasks)


def await_decided(world: World, node: int, batch: Accepted, *, within_s: int) -> None:
    for _ in range(within_s // 5):
        seen = views(world, node, batch)
        if len(seen) == TASKS_COUNT and all(view.is_decided for view in seen):
            return
        world.run_for(5 * US_PER_S)
    pytest.fail(f"node {node} after {within_s} s: {seen}")


def assert_results_at(world: World, node: int, batch: Accepted) -> set[int]:
    """Check that a device has outputs and good receipts; return after how many moves."""
    moves = set()
    for task in batch.tasks:
        result, receipt = world.ask(node, GetResult(task)), world.ask(node, GetReceipt(task))
        world.run_for(US_PER_S // 10)
        assert isinstance(result.last, ResultView), result.last
        assert isinstance(receipt.last, ReceiptView), receipt.last
        moves.add(len(world.checks._receipts.decode(receipt.last.receipt).moves))
    return moves


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_steward_that_is_gone_is_replaced_and_the_new_one_can_lose_another(gone: int) -> None:
    world = world_of()
    batch = accepted(world)
    first = keepers(world, batch)
    world.crash(first[gone], DiskFate.LOSE_ALL)
    world.run_until(
        lambda: world.trace.counts["batch.moved"] >= 3,
        within_us=3 * GONE_US,
        what="the batch to move",
    )
    left = [node for node in first if node != first[gone]]
    joined = next(node for node in range(6) if node not in first and keeps_any(world, node))
    world.crash(left[0], DiskFate.LOSE_ALL)  # of the three of before one is left
    for node in (left[1], joined):
        await_decided(world, node, batch, within_s=600)
        assert max(assert_results_at(world, node, batch)) >= 1


def test_a_steward_that_comes_back_after_the_move_learns_the_outcomes() -> None:
    world = world_of()
    batch = accepted(world)
    world.crash(0, DiskFate.KEEP)
    world.run_until(
        lambda: world.trace.counts["batch.moved"] >= 3,
        within_us=3 * GONE_US,
        what="the batch to move",
    )
    world.start(0)
    await_decided(world, 0, batch, within_s=600)
    assert 1 in assert_results_at(world, 0, batch)


def test_a_steward_that_comes_back_in_time_is_not_replaced() -> None:
    world = world_of()
    batch = accepted(world)
    world.crash(keepers(world, batch)[1], DiskFate.KEEP)
    world.run_for(GONE_US // 2)
    world.start(keepers(world, batch)[1])
    await_decided(world, 0, batch, within_s=600)
    assert assert_results_at(world, 0, batch) == {0}


def test_a_device_that_lost_its_store_may_be_named_again_with_the_new_one() -> None:
    world = world_of(3)
    batch = accepted(world)
    second = keepers(world, batch)[1]
    world.crash(second, DiskFate.LOSE_ALL)
    world.start(second)
    await_decided(world, second, batch, within_s=600)
    assert 1 in assert_results_at(world, second, batch)


def test_where_a_majority_is_gone_tasks_are_stuck_and_say_so() -> None:
    world = world_of()
    batch = accepted(world)
    for node in keepers(world, batch)[1:]:
        world.crash(node, DiskFate.LOSE_ALL)
    world.run_for(2 * GONE_US)
    open_views = [view for view in views(world, 0, batch) if not view.is_decided]
    assert {view.reason for view in open_views} == {"stuck: 2 of 3 stewards gone"}
    assert all("resubmit" in (view.hint or "") for view in open_views)
    assert not world.trace.counts["batch.moved"]


def test_a_stuck_task_can_be_submitted_again_and_the_new_contract_names_the_old_batch() -> None:
    world = world_of(seed=6)  # where checks of what is stuck would keep results of the new waiting
    batch = accepted(world)
    early = world.ask(0, Resubmit(batch.tasks[0]))
    world.run_for(US_PER_S)
    assert isinstance(early.last, Refused)
    assert "not stuck" in early.last.message
    for node in keepers(world, batch)[1:]:
        world.crash(node, DiskFate.LOSE_ALL)
    world.run_for(2 * GONE_US)
    again = world.ask(0, Resubmit(batch.tasks[0]))
    world.run_for(5 * US_PER_S)
    assert isinstance(again.last, Accepted), again.last
    assert (again.last.durability, len(again.last.tasks)) == ("mesh", TASKS_COUNT)
    assert again.last.batch != batch.batch
    await_decided(world, 0, again.last, within_s=360)
    receipt = world.ask(0, GetReceipt(again.last.tasks[0]))
    world.run_for(US_PER_S)
    assert isinstance(receipt.last, ReceiptView)
    contract = world.checks._receipts.decode(receipt.last.receipt).contract.body
    assert contract.resubmits == task_id_from_text(batch.tasks[0]).batch


def test_a_batch_with_one_steward_is_never_given_more() -> None:
    world = world_of()
    batch = accepted(world, durability=Durability.LOCAL)
    world.run_for(2 * GONE_US)
    assert keepers(world, batch) == [0]
    await_decided(world, 0, batch, within_s=600)
    assert not world.trace.counts["batch.moved"]
