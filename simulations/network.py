"""The network between simulated devices: who is linked to whom, and what is wrong with the paths.

Links are ordered streams, as the daemon's are. A cut loses what is in flight and tears the stream:
neither end is told, each learns of it by its own heartbeats, by sending after the cut has healed,
or when its keepalive runs out. A jam loses nothing: what is sent waits at its sender, and arrives
in order after the release. A cut that is shorter than TCP's patience, so that retransmissions bring
everything after it, is a jam.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from simulations.carrying import Carrying
from simulations.conditions import Conditions
from simulations.dials import Dials
from simulations.endpoint import Carrier, Endpoint
from simulations.engine import Engine
from simulations.fabric import Fabric
from simulations.link_end import LinkEnd
from simulations.links import Links
from simulations.paths import NetworkSettings, Paths, PeerPair
from wire.ids import PeerId
from wire.messages import Message


class Network:
    """All devices, the links between them, and what is wrong with the paths."""

    def __init__(
        self, engine: Engine, settings: NetworkSettings, *, seed: int, carrier: Carrier
    ) -> None:
        self.settings = settings
        self.paths = Paths(settings, seed=seed)
        self._fabric = Fabric(engine=engine, settings=settings, paths=self.paths, carrier=carrier)
        self._links = Links(self._fabric)
        self._dials = Dials(self._fabric, self._links)
        self._carrying = Carrying(self._fabric, self._links)

    @property
    def counts(self) -> Counter[str]:
        """What happened how often."""
        return self._fabric.counts

    @property
    def on_sent(self) -> Callable[[PeerId, PeerId, int], None] | None:
        """What hears of every message that a device sends or passes on: whose, and its bytes."""
        return self._carrying.on_sent

    @on_sent.setter
    def on_sent(self, hears: Callable[[PeerId, PeerId, int], None] | None) -> None:
        self._carrying.on_sent = hears

    # What there is.

    def attach(self, endpoint: Endpoint) -> None:
        """Connect a device to the network; it stays, whether or not its process runs."""
        self._fabric.endpoints[endpoint.peer] = endpoint
        self._links.attach(endpoint.peer)
        self.paths.attach(endpoint.peer, endpoint.index)

    def distrust(self, peer: PeerId, carrier: Carrier) -> None:
        """Let what a device sends on later links travel by a carrier of its own, which verifies.

        For devices that may forge: by reference, a forged signature would pass for a good one.
        """
        self._fabric.carriers[peer] = carrier

    def carrier_of(self, peer: PeerId) -> Carrier:
        """Return what carries what a device sends."""
        return self._fabric.carrier_of(peer)

    def count_sent(self, origin: PeerId, target: PeerId, size_bytes: int) -> None:
        """Let `on_sent` hear of something that does not go on a link."""
        if self._carrying.on_sent is not None:
            self._carrying.on_sent(origin, target, size_bytes)

    def peers(self) -> list[PeerId]:
        """Return all devices, in the order they were attached."""
        return list(self._fabric.endpoints)

    def endpoint(self, peer: PeerId) -> Endpoint:
        """Return a device of this network."""
        return self._fabric.endpoints[peer]

    def can_reach(self, one: PeerId, other: PeerId) -> bool:
        """Say whether `one` could open a connection to `other` now, or has one, and both answer."""
        if self.is_linked(one, other):
            return self._fabric.are_answering(one, other)
        return self._fabric.can_reach(one, other) and self.paths.can_be_dialled(other)

    def is_linked(self, one: PeerId, other: PeerId) -> bool:
        """Say whether both ends hold the same link and bytes pass on it both ways now."""
        return self._links.is_linked(one, other)

    def neighbours(self, peer: PeerId) -> list[PeerId]:
        """Return those to whom `peer` has a link on which bytes pass, in order of their numbers."""
        links = self._links
        ends = [end for end in links.held_by(peer).values() if links.is_whole(end)]
        ends.sort(key=_number_of_other)
        return [end.target for end in ends]

    # What nodes do.

    def send(self, origin: PeerId, target: PeerId, message: Message) -> None:
        """Send on the link from `origin`; without a link the message is dropped and counted."""
        end = self._links.held_by(origin).get(target)
        if end is None:
            self.counts["network.message_without_link"] += 1
        else:
            self._carrying.send(end, message)

    def dial(
        self,
        origin: PeerId,
        target: PeerId,
        addresses: Sequence[str],
        via: Sequence[PeerId] = (),
    ) -> None:
        """Try to open a link. The origin hears LinkUp or DialFailed, nothing if it has one."""
        self._dials.dial(origin, target, addresses, via)

    def hang_up(self, holder: PeerId, other: PeerId, reason: str) -> None:
        """Close the holder's end; the other end hears of it if a packet still gets there."""
        end = self._links.held_by(holder).get(other)
        if end is not None:
            self._links.close(end, reason)

    # What becomes of devices and paths.

    def process_died(self, peer: PeerId) -> None:
        """Drop all that a dead process held: its kernel tells the others, if it has power."""
        self._dials.process_died(peer)
        self._fabric.bans.process_died(peer)
        self._links.process_died(peer, is_powered=self.endpoint(peer).is_powered)

    def cut(self, pairs: Iterable[PeerPair]) -> None:
        """Lose what is in flight from each origin to its target, and what is sent from now on."""
        self.tear(self.paths.cut(pairs))

    def mend(self, pairs: Iterable[PeerPair]) -> None:
        """End one cut of each pair: what was cut twice stays cut."""
        self.paths.mend(pairs)

    def jam(self, pairs: Iterable[PeerPair]) -> None:
        """Let what is sent from each origin to its target wait at the origin."""
        self._links.jam(self.paths.jam(pairs))

    def release(self, pairs: Iterable[PeerPair]) -> None:
        """End one jam of each pair; where it was the last, all that waits is sent, in order."""
        self._links.release(self.paths.release(pairs))

    def worsen(self, pairs: Iterable[PeerPair], conditions: Conditions) -> None:
        """Add to what the packets of these pairs suffer."""
        self.paths.worsen(pairs, conditions)

    def better(self, pairs: Iterable[PeerPair], conditions: Conditions) -> None:
        """Take away again what one `worsen` with equal conditions added."""
        self.paths.better(pairs, conditions)

    def heal_all(self) -> None:
        """End all faults of paths, however often they were begun."""
        self._links.release(self.paths.heal())

    def calm(self) -> None:
        """Carry messages on streams from now on, whatever the settings say."""
        if self._carrying.datagrams is not None:
            self._carrying.datagrams = None
            self.tear(self.paths.cuts())

    def tear(self, pairs: Iterable[PeerPair]) -> None:
        """Lose what is in flight from each origin to its target: their paths were cut."""
        if self._carrying.datagrams is None:  # else each packet is lost or not when it arrives
            self._links.tear(pairs)


def _number_of_other(end: LinkEnd) -> int:
    return end.other.index
