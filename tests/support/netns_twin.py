"""The simulator's word on the same split: what it says that a real mesh will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from simulations.discovery import Discovery
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.paths import NetworkSettings
from simulations.plan import Plan
from simulations.runner import Runner
from simulations.steps import Split, Submit
from simulations.world import World
from wire.answers import PeerList
from wire.commands import ListPeers
from wire.ids import peer_text

SPLIT_AT_US = 15 * US_PER_S
LOOK_EVERY_US = 100_000
WAIT_US_MAX = 120 * US_PER_S
BRIDGE = NetworkSettings(latency_us=100, jitter_us=50)  # in one machine


@dataclass(frozen=True, slots=True)
class Foretold:
    """How long it takes, in seconds from the split and from the heal, over some seeds in order."""

    noticed_s: tuple[float, ...]
    whole_s: tuple[float, ...]


def foretold(
    nodes_count: int, *, left: Sequence[int], split_s: float, seeds: Sequence[int]
) -> Foretold:
    """Split a simulated mesh as a real one was, with work on both sides, once for each seed."""
    split_us = int(split_s * US_PER_S)
    runs = [_run(nodes_count, tuple(left), split_us, seed) for seed in seeds]
    noticed_s, whole_s = zip(*runs, strict=True)
    return Foretold(tuple(sorted(noticed_s)), tuple(sorted(whole_s)))


def _run(nodes_count: int, left: tuple[int, ...], split_us: int, seed: int) -> tuple[float, float]:
    right = tuple(node for node in range(nodes_count) if node not in left)
    submitters = (left[0], right[0])
    work = [
        Submit(at_us=SPLIT_AT_US + after_us, node=node, count=6)
        for node, after_us in product(submitters, (-2 * US_PER_S, US_PER_S, split_us // 2))
    ]
    plan = Plan(
        name="a split bridge",
        seed=seed,
        node_count=nodes_count,
        network=BRIDGE,
        discovery=Discovery.SEEDS,  # the real ones do not announce themselves either
        steps=(*work, Split(at_us=SPLIT_AT_US, groups=(left,), for_us=split_us)),
    )
    runner = Runner(plan, MESH_NODE, repeat_with=f"{__name__}, seed {seed}")
    runner.begin()
    world = runner.world
    world.run_for(SPLIT_AT_US - LOOK_EVERY_US)
    assert _linked(world) == everybody(nodes_count)
    across = {pair for pair in everybody(nodes_count) if (pair[0] in left) != (pair[1] in left)}
    noticed_us = _until(world, lambda: not _linked(world) & across)
    world.run_for(split_us - noticed_us)
    whole_us = _until(world, lambda: _linked(world) == everybody(nodes_count))
    return noticed_us / US_PER_S, whole_us / US_PER_S


def everybody(nodes_count: int) -> set[tuple[int, int]]:
    """Return all pairs of devices, in both orders."""
    return set(permutations(range(nodes_count), 2))


def _until(world: World, is_reached: Callable[[], bool]) -> int:
    """Return how long it took until what devices answer is as wanted."""
    began_us = world.engine.now_us
    while not is_reached():
        assert world.engine.now_us < began_us + WAIT_US_MAX, "the simulated mesh did not get there"
    return world.engine.now_us - began_us


def _linked(world: World) -> set[tuple[int, int]]:
    """Return who says that it is linked to whom: the question that real devices are asked."""
    nodes = {peer_text(host.peer): node for node, host in enumerate(world.hosts)}
    requests = [world.ask(node, ListPeers()) for node in range(len(world.hosts))]
    world.run_for(LOOK_EVERY_US)
    answers = [request.last for request in requests]
    return {
        (node, nodes[peer.id])
        for node, answer in enumerate(answers)
        if isinstance(answer, PeerList)
        for peer in answer.peers
        if peer.state == "linked" and peer.capabilities
    }
