"""A mesh of real daemons is split for a minute, with work before, during and after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.daemons import Daemons
from support.netns import fabric
from support.netns_errands import (
    Errand,
    assert_verified,
    await_decided,
    done,
    echoes,
    long_task,
)
from support.netns_measured import measured
from support.netns_mesh import RealMesh
from support.netns_twin import foretold

from p2p.failure_detector import FIRST_SETTLE_US_MAX

pytestmark = pytest.mark.minutes

SPLIT_S = 60.0
NOTICED_S_MAX = 10.0
WHOLE_S_MAX = 30.0
DECIDED_S_MAX = 120.0  # four long tasks at once, and whatever else the machine is busy with
PAUSE_S, ROUND_S = 2.0, 10.0  # between two rounds of work in the split; left for the last one
SEEDS_COUNT = 5


@pytest.mark.parametrize(
    ("nodes_count", "is_told"), [(3, True), (5, False), (10, True)], ids=["3", "5", "10"]
)
def test_both_sides_of_a_split_work_on_and_grow_together_again(
    nodes_count: int, is_told: bool, daemons: Daemons, tmp_path: Path
) -> None:
    with fabric(nodes_count) as network:
        mesh = RealMesh(network, daemons)
        mesh.grow()
        if not is_told:
            network.pin_neighbours()
        time.sleep(FIRST_SETTLE_US_MAX / 1_000_000)  # by then all have named their observers
        split_and_heal(mesh, tmp_path / "receipts")
        mesh.assert_calm()


def split_and_heal(mesh: RealMesh, receipts: Path) -> None:
    """Split a mesh in two for a minute, with work on both sides, and see it come to its end."""
    count = len(mesh.devices)
    left, right = tuple(range(count // 2)), tuple(range(count // 2, count))
    first, others = mesh.devices[0], [mesh.devices[node] for node in right]
    boss, worker = others[0], others[-1]

    # Before: each side works for the other when the cable breaks.
    caught = [long_task(first, at=worker), long_task(boss, at=first)]
    mesh.network.split(left)
    assert not any(errand.is_decided for errand in caught)
    split_s = time.monotonic()

    # Nobody has noticed yet: some of this may be offered to devices that are out of reach.
    own = [*echoes(first, 6, "at once"), *echoes(boss, 6, "at once")]
    noticed_s = mesh.await_cut(left, right, NOTICED_S_MAX)

    # Both sides take on work and do it, and take on what only the other side may do.
    own += [*echoes(first, 6, "on our own"), *echoes(boss, 6, "on our own")]
    waiting = [*echoes(first, 2, "later", at=worker), *echoes(boss, 2, "later", at=first)]

    # A device dies in the middle of a task, and comes back into the half that it left.
    own.append(long_task(boss, at=worker))
    worker.kill()
    time.sleep(2)
    mesh.restart(right[-1])
    # So does one that has promised work to people.
    first.kill()
    mesh.restart(left[0])

    await_decided(own, within_s=split_s + SPLIT_S - time.monotonic())
    while time.monotonic() < split_s + SPLIT_S - ROUND_S:
        time.sleep(PAUSE_S)
        work = [*echoes(first, 2, "still here"), *echoes(boss, 2, "still here")]
        await_decided(work, DECIDED_S_MAX)
        own += work
    before = [done(errand) for errand in own]
    here, there = ({mesh.devices[node].name for node in side} for side in (left, right))
    for errand, known in zip(own, before, strict=True):
        side = here if errand.device.name in here else there
        assert known.executor_name in side
    assert not any(errand.is_decided for errand in waiting)

    # The cable is whole again when both sides are in the middle of work of their own.
    time.sleep(max(0.0, split_s + SPLIT_S - time.monotonic()))
    ours, theirs = mesh.devices[left[-1]], others[len(others) // 2]
    begun = [long_task(first, at=ours), long_task(boss, at=theirs)]
    assert mesh.network.lost_count() > 0
    assert not any(errand.is_decided for errand in (*waiting, *begun))
    mesh.network.heal()
    healed_s = time.monotonic()
    whole_s = mesh.await_whole(WHOLE_S_MAX)
    again = [*echoes(first, 3, "again", at=worker), *echoes(boss, 3, "again", at=first)]
    everything = [*caught, *own, *waiting, *begun, *again]
    await_decided(everything, DECIDED_S_MAX)
    decided_s = time.monotonic() - healed_s
    tell(count, left, noticed_s, whole_s, decided_s, len(everything))
    assert_one_end_each(everything, receipts)
    assert [
        done(errand) for errand in own
    ] == before  # late results of the other side came to nothing
    assert [done(errand).executor_name for errand in begun] == [ours.name, theirs.name]
    mesh.assert_one_mesh()


def tell(
    count: int,
    left: Sequence[int],
    noticed_s: float,
    whole_s: float,
    decided_s: float,
    tasks_count: int,
) -> None:
    """Report what was measured beside what the simulator says, which keeps to the same bounds."""
    told = foretold(count, left=left, split_s=SPLIT_S, seeds=range(SEEDS_COUNT))
    assert told.noticed_s[-1] < NOTICED_S_MAX
    assert told.whole_s[-1] < WHOLE_S_MAX
    measured(f"{count} devices: everybody saw the split after", noticed_s)
    measured("  in the simulator, for some seeds", *told.noticed_s)
    measured("  all saw all after the heal within", whole_s)
    measured("  in the simulator, for some seeds", *told.whole_s)
    measured(f"  all {tasks_count} tasks were decided after the heal within", decided_s)


def assert_one_end_each(everything: list[Errand], receipts: Path) -> None:
    """Check that every task has one outcome, proven, which nothing changes any more."""
    known = [done(errand) for errand in everything]
    assert_verified(everything, receipts)
    listed = {
        device.name: [str(view["id"]) for view in device.ask("tasks", limit=1_000)["tasks"]]
        for device in {errand.device.name: errand.device for errand in everything}.values()
    }
    for name, tasks in listed.items():
        accepted = [errand.task for errand in everything if errand.device.name == name]
        assert sorted(tasks) == sorted(accepted)
    time.sleep(5)
    assert [done(errand) for errand in everything] == known
