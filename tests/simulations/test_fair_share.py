"""A small batch beside a large one of somebody else: it has its turn at the one device there is."""

from __future__ import annotations

import pytest

from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.submission import work_of
from simulations.trace import TraceLevel
from simulations.world import World, WorldSettings
from wire.membership import Role
from wire.tasks import Durability

GREEDY, MODEST = 0, 1
SUBMITS: tuple[Role, ...] = (Role.SUBMITTER, Role.STEWARD)
# Half of the device's two workers for twelve tasks of a second, and time to be noticed.
HAS_ITS_TURN_US = 18 * US_PER_S
ALONE_US = 3 * US_PER_S
WORKERS_COUNT = 2


def submit(world: World, node: int, *, count: int) -> None:
    work = work_of(
        count,
        Program(work_us=US_PER_S),
        deadline_us=3_600 * US_PER_S,
        durability=Durability.LOCAL,
    )
    world.submit(node, work)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_small_batch_has_half_of_a_device_amid_large_ones_of_another_submitter(
    seed: int,
) -> None:
    roles = {GREEDY: SUBMITS, MODEST: SUBMITS}
    settings = WorldSettings(seed=seed, node_count=3, roles=roles, trace=TraceLevel.DIGEST)
    world = World(settings, MESH_NODE)
    world.start_all()
    world.run_for(6 * US_PER_S)
    for _ in range(4):
        submit(world, GREEDY, count=64)
    world.run_for(ALONE_US)
    submit(world, MODEST, count=12)
    world.run_for(HAS_ITS_TURN_US)

    done = list(world.checks.register.outcomes)
    small = {one.task.batch for one in world.checks.accepted if one.host == MODEST}
    assert sum(batch in small for batch, _ in done) == 12
    # The large ones go on: no worker idles, and each is in the middle of a task at the end.
    assert len(done) >= WORKERS_COUNT * ((ALONE_US + HAS_ITS_TURN_US) // US_PER_S - 1)
