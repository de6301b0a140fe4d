"""A small batch beside a large one of somebody else: it has its turn at the one device there is."""

from __future__ import annotations

import pytest

from simulations.engine import US_PER_S
from simulations.host import SimulatedHost
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.submission import work_of
from simulations.trace import TraceLevel
from simulations.world import World, WorldSettings
from wire.effects import Effect
from wire.events import Event, Executed
from wire.membership import Role
from wire.tasks import Durability

GREEDY, MODEST, SHARED = 0, 1, 2
SUBMITS: tuple[Role, ...] = (Role.SUBMITTER, Role.STEWARD)
# Half of the device's two workers for twelve tasks of a second, and time to be noticed.
HAS_ITS_TURN_US = 18 * US_PER_S
ALONE_US = 3 * US_PER_S
WORKERS_COUNT = 2


class RunsAt:
    """Counts what a device has run."""

    observed_events = (Executed,)
    observed_effects = ()

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self.ended_count = 0

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        self.ended_count += host is self._host

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        raise AssertionError(effect)


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
    runs = RunsAt(world.hosts[SHARED])
    world.hosts[SHARED].around.observers.add(runs)
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
    # The large ones go on: the device has run about as many tasks as fit into the time.
    assert runs.ended_count >= WORKERS_COUNT * HAS_ITS_TURN_US // US_PER_S
