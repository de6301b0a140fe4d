"""Both sides of a split go on all the while, and what was caught in it ends soon after the heal."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from simulations.engine import US_PER_S
from simulations.faults import Faults
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.steps import Split
from simulations.submission import work_of
from simulations.trace import TraceLevel
from simulations.world import Request, World, WorldSettings
from wire.answers import Accepted
from wire.ids import task_id_from_text
from wire.tasks import Durability

SIDES = ((0, 1, 2), (3, 4, 5))
WORK_US = US_PER_S
SPLIT_S = 45
EVERY_S = 3
SETTLES_US = 30 * US_PER_S  # after the heal, and the run time of what is still to be run
ENDS_US = 20 * US_PER_S  # what is new on a side of the split


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch, and when it was submitted."""

    request: Request
    at_us: int

    def decided_us(self, world: World) -> list[int]:
        """Return when each of its tasks was decided; what is not is not in it."""
        accepted = self.request.last
        assert isinstance(accepted, Accepted), accepted
        ids = [task_id_from_text(text) for text in accepted.tasks]
        decided_us = world.checks.register.decided_us
        places = [(one.batch, one.index) for one in ids]
        return [decided_us[place] for place in places if place in decided_us]


def submit(world: World, node: int, *, count: int) -> Asked:
    work = work_of(
        count,
        Program(work_us=WORK_US),
        deadline_us=3_600 * US_PER_S,
        durability=Durability.MESH,
    )
    return Asked(world.submit(node, work), world.engine.now_us)


@pytest.mark.parametrize("seed", range(4))
def test_both_sides_of_a_split_accept_and_finish_tasks_and_the_rest_ends_after_the_heal(
    seed: int,
) -> None:
    world = World(WorldSettings(seed=seed, node_count=6, trace=TraceLevel.DIGEST), MESH_NODE)
    world.start_all()
    world.run_for(6 * US_PER_S)
    caught = [submit(world, side[0], count=4) for side in SIDES]  # stewards on both sides
    world.run_for(US_PER_S // 2)
    assert all(isinstance(one.request.last, Accepted) for one in caught)

    heal = Faults(world).begin(Split(at_us=0, groups=SIDES), None)
    new: list[Asked] = []
    for round_number in range(SPLIT_S // EVERY_S):
        new += [submit(world, side[round_number % 3], count=1) for side in SIDES]
        world.run_for(EVERY_S * US_PER_S)
    world.run_for(ENDS_US)
    for one in new:
        (decided_us,) = one.decided_us(world)
        assert decided_us <= one.at_us + ENDS_US

    assert heal is not None
    heal()
    world.run_for(SETTLES_US + WORK_US)
    assert all(len(one.decided_us(world)) == 4 for one in caught)
