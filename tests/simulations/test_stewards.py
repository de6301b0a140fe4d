"""Batches kept by three devices: accepted work outlives each, with one outcome a task."""

from __future__ import annotations

import pytest

from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.submission import work_of
from simulations.trace import TraceLevel
from simulations.world import Request, World, WorldSettings
from wire.answers import Accepted, ReceiptView, Refused, ResultView, TaskView
from wire.commands import CancelTask, GetReceipt, GetResult, GetTask
from wire.ids import peer_text
from wire.membership import Role
from wire.tasks import Durability

TASKS_COUNT = 6
HOUR_US = 3_600 * US_PER_S
ONLY_EXECUTES = (Role.EXECUTOR,)


def world_of(
    count: int = 5, *, seed: int = 1, roles: dict[int, tuple[Role, ...]] | None = None
) -> World:
    settings = WorldSettings(
        seed=seed, node_count=count, roles=roles or {}, trace=TraceLevel.DIGEST
    )
    world = World(settings, MESH_NODE)
    world.start_all()
    world.run_for(6 * US_PER_S)
    return world


def submit(world: World, node: int = 0, *, work_us: int = 3 * US_PER_S) -> Request:
    program = Program(work_us=work_us)
    work = work_of(TASKS_COUNT, program, deadline_us=HOUR_US, durability=Durability.MESH)
    request = world.submit(node, work)
    world.run_until(lambda: request.is_done, within_us=15 * US_PER_S, what="an answer")
    return request


def accepted(request: Request) -> Accepted:
    assert isinstance(request.last, Accepted), request.last
    return request.last


def keepers(world: World, batch: Accepted) -> list[int]:
    """Return the nodes that keep a batch, in the order of their ranks."""
    by_text = {peer_text(host.peer): host.index for host in world.hosts}
    return [by_text[text] for text in batch.stewards]


def views(world: World, node: int, batch: Accepted) -> list[TaskView]:
    requests = [world.ask(node, GetTask(task)) for task in batch.tasks]
    world.run_for(US_PER_S // 10)
    found = [request.last for request in requests]
    return [view for view in found if isinstance(view, TaskView)]


def await_decided(world: World, node: int, batch: Accepted, *, within_s: int) -> None:
    for _ in range(within_s):
        seen = views(world, node, batch)
        if len(seen) == TASKS_COUNT and all(view.is_decided for view in seen):
            return
        world.run_for(US_PER_S)
    pytest.fail(f"node {node} after {within_s} s: {seen}")


def assert_results_at(world: World, node: int, batch: Accepted) -> None:
    """Check that a device has outputs and receipts of all tasks."""
    for task in batch.tasks:
        result, receipt = world.ask(node, GetResult(task)), world.ask(node, GetReceipt(task))
        world.run_for(US_PER_S // 10)
        assert isinstance(result.last, ResultView), result.last
        assert isinstance(receipt.last, ReceiptView), receipt.last


def test_three_devices_keep_a_batch_and_each_has_results_and_receipts() -> None:
    world = world_of()
    batch = accepted(submit(world))
    assert (batch.durability, len(batch.stewards)) == ("mesh", 3)
    assert keepers(world, batch)[0] == 0, "who submits is one of them"
    for node in keepers(world, batch):
        await_decided(world, node, batch, within_s=30)
        assert_results_at(world, node, batch)


@pytest.mark.parametrize("after_us", [0, US_PER_S, 4 * US_PER_S])
def test_the_submitting_device_may_burn_once_its_batch_is_accepted(after_us: int) -> None:
    world = world_of()
    batch = accepted(submit(world))
    world.run_for(after_us)
    world.crash(0, DiskFate.LOSE_ALL)
    for node in keepers(world, batch)[1:]:
        await_decided(world, node, batch, within_s=60)
        assert_results_at(world, node, batch)


def test_receipts_name_a_submitter_that_nobody_remembers_any_more() -> None:
    world = world_of()
    batch = accepted(submit(world))
    second, third = keepers(world, batch)[1:]
    for node in range(5):
        world.crash(node, DiskFate.LOSE_ALL if node == 0 else DiskFate.KEEP)
    world.run_for(US_PER_S)
    for node in range(1, 5):
        world.start(node)
    for node in (second, third):
        await_decided(world, node, batch, within_s=90)
        assert_results_at(world, node, batch)


def test_the_side_with_two_stewards_goes_on_and_the_third_learns_the_outcomes() -> None:
    world = world_of()
    batch = accepted(submit(world))
    world.split((0,))
    second = keepers(world, batch)[1]
    await_decided(world, second, batch, within_s=60)
    alone = views(world, 0, batch)
    assert not all(view.is_decided for view in alone)
    world.heal()
    await_decided(world, 0, batch, within_s=60)
    outcomes = {tuple(view.output_digest for view in views(world, n, batch)) for n in (0, second)}
    assert len(outcomes) == 1


def test_a_leader_that_restarts_leads_again_in_a_higher_epoch() -> None:
    world = world_of()
    batch = accepted(submit(world))
    world.run_for(US_PER_S)
    world.crash(0, DiskFate.LOSE_UNSYNCED)
    world.run_for(US_PER_S)
    world.start(0)
    await_decided(world, 0, batch, within_s=60)
    assert world.trace.counts["batch.led"] == 1


def test_a_steward_that_lost_its_store_votes_no_more_and_the_others_decide() -> None:
    world = world_of()
    batch = accepted(submit(world))
    _, second, third = keepers(world, batch)
    world.crash(second, DiskFate.LOSE_ALL)
    world.start(second)
    for node in (0, third):
        await_decided(world, node, batch, within_s=60)


def test_two_of_three_stewards_gone_decide_nothing_and_say_why() -> None:
    world = world_of()
    batch = accepted(submit(world, work_us=8 * US_PER_S))
    for node in keepers(world, batch)[1:]:
        world.crash(node, DiskFate.LOSE_ALL)
    world.run_for(60 * US_PER_S)
    assert not any(view.is_decided for view in views(world, 0, batch))
    assert all(view.reason for view in views(world, 0, batch))


def test_cancelled_and_complete_have_one_winner_at_all_stewards() -> None:
    world = world_of(seed=7)
    batch = accepted(submit(world, work_us=US_PER_S))
    world.run_for(US_PER_S)
    for task in batch.tasks:
        world.ask(0, CancelTask(task))
    for node in keepers(world, batch):
        await_decided(world, node, batch, within_s=60)
    ends = {tuple(v.outcome for v in views(world, n, batch)) for n in keepers(world, batch)}
    assert len(ends) == 1


def test_too_few_devices_that_keep_tasks_refuse_and_name_what_is_missing() -> None:
    world = world_of(4, roles={2: ONLY_EXECUTES, 3: ONLY_EXECUTES})
    refused = submit(world).last
    assert isinstance(refused, Refused)
    assert "1 besides this one would" in refused.message
    assert refused.hint is not None
    assert "--durability local" in refused.hint


def test_a_batch_without_a_majority_is_unconfirmed_and_is_done_after_the_heal() -> None:
    world = world_of()
    program = Program(work_us=US_PER_S)
    work = work_of(TASKS_COUNT, program, deadline_us=HOUR_US, durability=Durability.MESH)
    request = world.submit(0, work)
    world.run_for(15_000)  # the stewards have agreed, and are being given the batch
    world.split((0,))
    world.run_for(15 * US_PER_S)
    refused = request.last
    assert isinstance(refused, Refused)
    assert refused.message.startswith("unconfirmed ")
    task = refused.message.split()[1].rstrip(":")
    world.heal()
    world.run_for(60 * US_PER_S)
    request = world.ask(0, GetTask(task))
    world.run_for(US_PER_S)
    assert isinstance(request.last, TaskView)
    assert request.last.is_decided
