"""Stragglers in a mesh: they are not waited for, and that costs at most 5 % of the work."""

from __future__ import annotations

from unittest import mock

from meshd.node import MeshNode
from scheduler.hedging import EXTRA_PERMILLE, Hedging
from simulations.engine import US_PER_S
from simulations.faults import Faults
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.steps import Gray
from simulations.submission import work_of
from simulations.trace import TraceLevel
from simulations.world import World, WorldSettings
from wire.answers import Accepted
from wire.ids import task_id_from_text
from wire.membership import Role
from wire.tasks import Durability

SUBMITTER, GRAY = 0, 2
TASKS_COUNT = 160
WORK_US = US_PER_S // 2
SLOWDOWN = 200  # a run that begins on the gray device takes 100 s


def hedged_run() -> tuple[int, Hedging]:
    """Let one of five devices turn gray amid a batch; return how long that took, and the hedges."""
    roles: dict[int, tuple[Role, ...]] = {SUBMITTER: (Role.SUBMITTER, Role.STEWARD)}
    world = World(
        WorldSettings(seed=4, node_count=5, roles=roles, trace=TraceLevel.DIGEST), MESH_NODE
    )
    world.start_all()
    world.run_for(6 * US_PER_S)
    begun_us = world.engine.now_us
    work = work_of(
        TASKS_COUNT,
        Program(work_us=WORK_US),
        deadline_us=3_600 * US_PER_S,
        durability=Durability.LOCAL,
    )
    request = world.submit(SUBMITTER, work)
    outcomes = world.checks.register.outcomes
    world.run_until(lambda: len(outcomes) > TASKS_COUNT * 3 // 4, within_us=10**8, what="most")
    Faults(world).begin(Gray(at_us=0, who=GRAY, slowdown=SLOWDOWN), None)
    assert isinstance(request.last, Accepted)
    batch = task_id_from_text(request.last.tasks[0]).batch
    world.run_until(
        lambda: all((batch, index) in outcomes for index in range(TASKS_COUNT)),
        within_us=10**9,
        what="every task to be decided",
    )
    node = world.hosts[SUBMITTER].node()
    assert isinstance(node, MeshNode)
    return world.engine.now_us - begun_us, node._work.steward._leasing.hedging


def test_a_gray_device_is_not_waited_for_and_second_attempts_cost_5_percent_at_most() -> None:
    took_us, hedging = hedged_run()
    assert hedging.hedges_count > 0
    assert 0 < hedging.extra_us * 1_000 <= EXTRA_PERMILLE * hedging.run_us

    with mock.patch("scheduler.hedging.EXTRA_PERMILLE", 0):
        patient_us, _ = hedged_run()
    assert took_us < patient_us / 2
