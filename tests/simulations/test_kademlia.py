"""The walk that ships, in simulation: what it costs, whom it finds, and what liars do to it."""

from __future__ import annotations

from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.kademlia import LOOKUP_US_MAX, WalkedDht
from simulations.mesh_node import MESH_NODE
from simulations.paths import NetworkSettings
from simulations.world import World, WorldSettings
from wire.events import Provider

KEY = "gpu:cuda"
ROUND_TRIP_US = 50_000
NETWORK = NetworkSettings(latency_us=ROUND_TRIP_US // 2, jitter_us=0)


def grown(node_count: int, *, seed: int = 1) -> tuple[World, WalkedDht]:
    """A mesh in which all are linked to whom they want to be linked to."""
    settings = WorldSettings(seed=seed, node_count=node_count, network=NETWORK, walks_dht=True)
    world = World(settings, MESH_NODE)
    assert isinstance(world.dht, WalkedDht)
    world.start_all()
    world.run_for(20 * US_PER_S)
    return world, world.dht


def looked_up(
    world: World, seeker: int, *, is_thorough: bool = False
) -> tuple[tuple[Provider, ...], int]:
    """Return who was named, and after how many microseconds."""
    ends: list[tuple[tuple[Provider, ...], int]] = []
    begun_us = world.engine.now_us
    world.dht.find(
        world.hosts[seeker].peer,
        KEY,
        is_thorough=is_thorough,
        then=lambda found: ends.append((found, world.engine.now_us - begun_us)),
    )
    world.run_for(LOOKUP_US_MAX)
    [end] = ends
    return end


def provided(world: World, *providers: int) -> set[bytes]:
    """Let devices provide the key; return who they are."""
    for node in providers:
        world.dht.provide(world.hosts[node].peer, KEY)
    world.run_for(7 * US_PER_S)
    return {world.hosts[node].peer for node in providers}


def test_providers_are_found_in_a_round_trip_of_those_who_are_linked() -> None:
    world, _ = grown(8)
    peers = provided(world, 1, 2)
    found, duration_us = looked_up(world, 5)
    assert {one.peer for one in found} == peers
    assert ROUND_TRIP_US < duration_us < 2 * ROUND_TRIP_US


def test_a_key_that_nobody_provides_is_not_found() -> None:
    world, _ = grown(8)
    found, duration_us = looked_up(world, 5)
    assert found == ()
    assert duration_us < 3 * ROUND_TRIP_US


def test_a_record_is_found_after_its_provider_has_gone() -> None:
    world, _ = grown(8)
    peers = provided(world, 1)
    world.crash(1, DiskFate.LOSE_UNSYNCED)
    found, _ = looked_up(world, 5)
    assert {one.peer for one in found} == peers


def test_a_question_to_a_device_without_a_link_costs_a_dial_if_dials_are_charged() -> None:
    world, dht = grown(60)
    provided(world, 1, 2, 3)
    _, charged_us = looked_up(world, 50, is_thorough=True)
    dht.charges_dials = False
    _, free_us = looked_up(world, 50, is_thorough=True)
    assert charged_us > free_us + 6 * ROUND_TRIP_US


def test_a_fifth_of_liars_hide_nobody_and_are_named_behind_the_honest() -> None:
    world, dht = grown(60)
    peers = [host.peer for host in world.hosts]
    dht.lie(peers[:12], peers[12:16])
    true = provided(world, 20, 30, 40)
    for seeker in (25, 35, 45, 55):
        found, _ = looked_up(world, seeker, is_thorough=True)
        assert {one.peer for one in found[:3]} == true
    assert dht.counts["dht.lies"] > 0
    assert dht.counts["dht.record_dropped"] > 0


def test_a_seeker_that_restarts_hears_nothing_of_what_it_asked_before() -> None:
    world, dht = grown(4)
    heard: list[object] = []
    dht.find(world.hosts[2].peer, KEY, is_thorough=False, then=heard.append)
    world.crash(2, DiskFate.KEEP)
    world.start(2)
    world.run_for(LOOKUP_US_MAX)
    assert heard == []
