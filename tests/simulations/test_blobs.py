"""A blob takes as long as the path that it comes by."""

from __future__ import annotations

from support.scripted_nodes import Stage

from simulations.conditions import Conditions
from simulations.discovery import Discovery
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from simulations.world import WorldSettings
from wire.content import Content
from wire.effects import Fetch
from wire.events import TransferMeasured

LATENCY_US = 10_000
STEADY = NetworkSettings(latency_us=LATENCY_US, jitter_us=0, bytes_per_second=None)
SIZE_BYTES = 300_000


def took_us(worse: list[tuple[int, int]]) -> int:
    """Return how long device 1 takes to fetch a blob from device 0, if these paths are thin."""
    here = Stage(WorldSettings(seed=1, network=STEADY, discovery=Discovery.SEEDS))
    blob = here.world.hosts[0].blobs.put(bytes(SIZE_BYTES))
    thin = Conditions(bytes_per_second=SIZE_BYTES // 3)
    pairs = [(here.peer(origin), here.peer(target)) for origin, target in worse]
    here.world.network.worsen(pairs, thin)
    here.want(1, Fetch(Content(blob=blob), (here.peer(0),), "token"))
    here.world.run_for(10 * US_PER_S)
    [measured] = [event for event in here.nodes[1].events() if isinstance(event, TransferMeasured)]
    return measured.duration_us


def test_a_blob_takes_a_round_trip_and_its_length_at_the_bandwidth_of_the_way_it_comes() -> None:
    round_trip_us = 2 * (LATENCY_US + 1)
    assert took_us([]) == round_trip_us
    assert took_us([(1, 0)]) == round_trip_us  # the way of the request
    assert took_us([(0, 1)]) == round_trip_us + 3 * US_PER_S
