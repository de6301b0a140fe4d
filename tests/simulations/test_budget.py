"""A start costs what it costs, the more the larger the mesh is; a storm is found all the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.planted import planted

from simulations.budget import Budget
from simulations.engine import US_PER_S
from simulations.errors import InvariantBroken
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.runner import Runner
from simulations.world import World, WorldSettings
from wire import effects as do
from wire.effects import Effect
from wire.messages import Heartbeat

STORM = 220  # of each heartbeat: two neighbours hear 440 a second, 880 if they are to be answered


def test_a_start_has_bounds_of_its_own_and_bytes_grow_with_the_mesh() -> None:
    budget = Budget()
    up_us = budget.starting_us
    assert budget.sends_max(up_us=up_us - 1) == budget.starting_sends_per_second_max
    assert budget.sends_max(up_us=up_us) == budget.sends_per_second_max
    few, many = (
        [budget.bytes_max(up_us=us, members_count=count) for us in (up_us - 1, up_us)]
        for count in (10, 1_000)
    )
    assert many[0] - few[0] == 990 * budget.starting_bytes_per_member_max
    assert many[1] - few[1] == 990 * budget.bytes_per_member_max
    assert few[1] < few[0]


def repeats_heartbeats(effect: Effect) -> Sequence[Effect]:
    is_heartbeat = isinstance(effect, do.Send) and isinstance(effect.message, Heartbeat)
    return [effect] * STORM if is_heartbeat else [effect]


@pytest.mark.parametrize(("starting_us", "found_s"), [(30 * US_PER_S, 30), (0, 0)])
def test_a_storm_is_found_when_the_start_is_over(starting_us: int, found_s: int) -> None:
    budget = Budget(starting_us=starting_us)
    plan = Plan(seed=1, node_count=3, steps=(), lasts_us=60 * US_PER_S, budget=budget)
    runner = Runner(plan, planted(repeats_heartbeats), repeat_with="this test")
    with pytest.raises(InvariantBroken, match=r"S11: [0-9a-f]{64} sends 401 in one second"):
        runner.run()
    assert found_s <= runner.world.engine.now_us // US_PER_S <= found_s + 2


def test_what_a_real_start_sends_is_more_than_a_budget_without_one_allows() -> None:
    def start(budget: Budget) -> None:
        world = World(WorldSettings(seed=1, node_count=60, budget=budget), MESH_NODE)
        world.start_all()
        world.run_for(20 * US_PER_S)

    steady = Budget(sends_per_second_max=100)  # more than 24 links cost an idle device
    start(steady)
    with pytest.raises(InvariantBroken, match="S11"):
        start(Budget(sends_per_second_max=100, starting_us=0))


def test_what_a_directory_holds_bounds_what_a_start_may_send() -> None:
    def start(each_bytes: int) -> None:
        budget = Budget(bytes_per_second_max=0, starting_bytes_per_member_max=each_bytes)
        world = World(WorldSettings(seed=1, node_count=30, budget=budget), MESH_NODE)
        world.start_all()
        world.run_for(2 * US_PER_S)

    start(10_000)
    with pytest.raises(InvariantBroken, match="bytes in one second"):
        start(2_000)
