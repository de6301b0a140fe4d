"""Publication to all: a record reaches every device that a chain of working links leads to.

Only the outcome of GossipSub is simulated (who gets it, and how late), not its protocol: nothing
depends on it, and the daemon's is py-libp2p's own.
"""

from __future__ import annotations

from functools import partial

from simulations.engine import Engine
from simulations.network import Network
from simulations.paths import LANE_GOSSIP
from wire.errors import MalformedFrame
from wire.events import PublishedReceived
from wire.ids import PeerId
from wire.messages import RecordsGiven


def publish(engine: Engine, network: Network, origin: PeerId, records: RecordsGiven) -> None:
    """Let every device that `origin` reaches over links receive `records` once.

    Nobody passes on what does not decode or carries a forged signature.
    """
    carrier = network.carrier_of(origin)
    packed, size_bytes = carrier.pack(records)
    try:
        message = carrier.unpack(packed)
    except MalformedFrame:
        network.counts["network.publication_refused"] += 1
        return
    if not isinstance(message, RecordsGiven):
        return  # of a newer version
    received = PublishedReceived(message)
    for peer, at_us in _arrivals(engine.now_us, network, origin, size_bytes).items():
        engine.at(at_us, partial(network.endpoint(peer).deliver, received))


def _arrivals(now_us: int, network: Network, origin: PeerId, size_bytes: int) -> dict[PeerId, int]:
    """Return when a publication reaches whom, by ever longer chains of links.

    A stalled process gets it, and passes nothing on.
    """
    due_us = {origin: now_us}
    frontier = [origin]
    while frontier:
        reached: list[PeerId] = []
        for peer in frontier:
            for neighbour in network.neighbours(peer):
                if neighbour not in due_us:
                    delay_us = network.paths.delay_us(LANE_GOSSIP, peer, neighbour)
                    due_us[neighbour] = due_us[peer] + delay_us
                    network.count_sent(peer, neighbour, size_bytes)
                    if network.endpoint(neighbour).is_answering:
                        reached.append(neighbour)
        frontier = reached
    del due_us[origin]
    return due_us
