"""A device that is told to start while it is still stopping."""

from __future__ import annotations

from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.runner import Runner
from simulations.steps import Stop
from simulations.world import STOP_US


def test_it_starts_when_it_has_stopped() -> None:
    stop = Stop(at_us=5 * US_PER_S, node=1, restart_after_us=STOP_US // 5)
    plan = Plan(name="stopped and started", seed=1, node_count=3, steps=(stop,))
    runner = Runner(plan, MESH_NODE, repeat_with=__name__)
    runner.run()
    assert [host.boot for host in runner.world.hosts] == [1, 2, 1]
