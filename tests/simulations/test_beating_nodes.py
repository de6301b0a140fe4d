"""Whole runs of a small node: time, faults and digests, without a protocol in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.scripted_nodes import BEATING

from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from simulations.world import World, WorldSettings

LOSSY = NetworkSettings(latency_us=20_000, jitter_us=30_000, loss_permille=20)
ROOT = Path(__file__).parents[2]


def eventful(seed: int, *, exercises_wire: bool = False) -> World:
    """Return a world in which a good deal went wrong for a minute."""
    world = World(
        WorldSettings(seed=seed, node_count=5, network=LOSSY, exercises_wire=exercises_wire),
        BEATING,
    )
    world.start_all()
    world.run_for(10 * US_PER_S)
    world.split([0, 1], [2, 3])
    world.run_for(5 * US_PER_S)
    world.crash(1, DiskFate.LOSE_UNSYNCED)
    world.freeze(4)
    world.run_for(5 * US_PER_S)
    world.heal()
    world.thaw(4)
    world.start(1)
    world.run_for(40 * US_PER_S)
    return world


def test_a_run_depends_on_its_seed_only() -> None:
    digests = [eventful(seed).trace.digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_a_run_is_the_same_in_every_process() -> None:
    program = (
        "import sys; sys.path[:0] = ['tests', 'tests/simulations']\n"
        "from test_beating_nodes import eventful; print(eventful(1).trace.digest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("0", "1", "12345")
    }
    assert digests == {f"{eventful(1).trace.digest()}\n".encode()}


def test_devices_find_each_other_again_and_count_on_from_what_was_durable() -> None:
    world = eventful(3)
    for host in world.hosts:
        others = [other.peer for other in world.hosts if other is not host]
        assert world.network.neighbours(host.peer) == others
    begun = [line for line in world.trace.lines() if '"beat.begun"' in line and '"node":1,' in line]
    assert '"count":0' in begun[0]
    assert '"count":0' not in begun[1]


def test_what_has_no_wire_form_is_found_by_a_run_over_the_wire() -> None:
    world = eventful(1, exercises_wire=True)
    assert world.trace.counts["event.Received"] > 500
    assert world.network.counts["network.link_up"] > 10


def test_the_trace_is_sorted_by_time_then_device() -> None:
    lines = [line.split(",")[:3] for line in eventful(1).trace.lines()]
    keys = [tuple(int(part.split(":")[1]) for part in parts) for parts in lines]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
