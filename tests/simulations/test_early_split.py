"""A split in the first seconds of a mesh, when devices have not named observers yet."""

from __future__ import annotations

from typing import cast

import pytest

from meshd.node import MeshNode
from p2p.failure_detector import FIRST_SETTLE_US_MAX
from p2p.liveness import SILENCE_US_MAX
from p2p.verdicts import UNOBSERVED_US_MAX, Liveliness
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.runner import Runner
from simulations.steps import Split
from simulations.world import World

SLACK_US = 3 * US_PER_S  # heartbeats are a second apart, and what is seen must be told


def dead_across(world: World) -> set[tuple[int, int]]:
    nodes = [cast(MeshNode, host.node()) for host in world.hosts]
    return {
        (one, other)
        for one, other in ((0, 1), (0, 2), (1, 0), (2, 0))
        if nodes[one].verdict(world.hosts[other].peer).state is Liveliness.DEAD
    }


@pytest.mark.parametrize("split_us", [300_000, 900_000, 1_500_000, FIRST_SETTLE_US_MAX])
def test_a_device_cut_off_as_soon_as_it_came_is_seen_to_be_gone(split_us: int) -> None:
    plan = Plan(
        name="cut at the start",
        seed=3,
        node_count=3,
        steps=(Split(at_us=split_us, groups=((0,),), for_us=120 * US_PER_S),),
    )
    runner = Runner(plan, MESH_NODE, repeat_with=__name__)
    runner.begin()
    runner.world.run_for(split_us - 1)
    assert not dead_across(runner.world)
    runner.world.run_for(SILENCE_US_MAX + UNOBSERVED_US_MAX + SLACK_US)
    assert dead_across(runner.world) == {(0, 1), (0, 2), (1, 0), (2, 0)}
