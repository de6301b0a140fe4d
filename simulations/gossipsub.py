"""Publication to all: a record reaches every device that a chain of working links leads to.

Only the outcome of GossipSub is simulated (who gets it, and how late), not its protocol: nothing
depends on it, and the daemon's is py-libp2p's own.
"""

from __future__ import annotations

from functools import partial

from simulations.engine import Engine
from simulations.network import Network
from simulations.paths import LANE_GOSSIP
from wire.events import PublishedReceived
from wire.ids import PeerId
from wire.messages import RecordsGiven


def publish(engine: Engine, network: Network, origin: PeerId, records: RecordsGiven) -> None:
    """Let every device that `origin` reaches over links receive `records` once."""
    due_us = {origin: engine.now_us}
    frontier = [origin]
    while frontier:
        reached: list[PeerId] = []
        for peer in frontier:
            for neighbour in network.neighbours(peer):
                if neighbour not in due_us:
                    delay_us = network.paths.delay_us(LANE_GOSSIP, peer, neighbour)
                    due_us[neighbour] = due_us[peer] + delay_us
                    reached.append(neighbour)
        frontier = reached
    received = PublishedReceived(records)
    for peer, at_us in due_us.items():
        if peer != origin:
            engine.at(at_us, partial(network.endpoint(peer).deliver, received))
