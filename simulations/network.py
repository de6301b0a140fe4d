"""Links between simulated devices: ordered streams, as the daemon's are.

A message that is lost on the way is sent again by the stream and holds up those behind it. A cut
loses what is in flight and tears the stream: neither end is told, each learns of it by its own
heartbeats, by sending after the cut has healed, or when its keepalive runs out. A dial costs six
round trips. A process that dies closes its streams; a device without power says nothing.

What each end hears is what `p2p.links` tells it: LinkUp, what was received, LinkDown, in turn. Of
two devices that dial each other at the same time nobody hears of the second link.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from simulations.endpoint import Carrier, Endpoint
from simulations.engine import Engine
from simulations.paths import LANE_DIAL, LANE_MESSAGE, NetworkSettings, Paths
from wire.errors import NotAMember
from wire.events import Congested, DialFailed, Drained, Event, LinkDown, LinkUp, Received
from wire.ids import PeerId
from wire.membership import check_chain
from wire.messages import Hello, Message, Traffic

DIAL_ROUND_TRIPS = 6


@dataclass(eq=False, slots=True)
class _Link:
    """One stream between two devices. Each end holds it until it knows that the link is over."""

    torn_from: set[PeerId] = field(default_factory=set)  # origins whose bytes were lost
    expiring: set[PeerId] = field(default_factory=set)  # ends whose keepalive runs
    last_due_us: dict[PeerId, int] = field(default_factory=dict)
    waiting: Counter[tuple[PeerId, Traffic]] = field(default_factory=Counter)
    congested: set[tuple[PeerId, Traffic]] = field(default_factory=set)
    is_reset: bool = False


class Network:
    """All devices, the links between them, and what is wrong with the paths."""

    def __init__(
        self, engine: Engine, settings: NetworkSettings, *, seed: int, carrier: Carrier
    ) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.paths = Paths(settings, seed=seed)
        self._engine = engine
        self._carrier = carrier
        self._endpoints: dict[PeerId, Endpoint] = {}
        self._links: dict[tuple[PeerId, PeerId], _Link] = {}  # (holder, other)
        self._dialling: dict[tuple[PeerId, PeerId], int] = {}  # (origin, target), the origin's boot

    def attach(self, endpoint: Endpoint) -> None:
        """Connect a device to the network; it stays, whether or not its process runs."""
        self._endpoints[endpoint.peer] = endpoint
        self.paths.attach(endpoint.peer, endpoint.index)

    def peers(self) -> list[PeerId]:
        """Return all devices, in the order they were attached."""
        return list(self._endpoints)

    def endpoint(self, peer: PeerId) -> Endpoint:
        """Return a device of this network."""
        return self._endpoints[peer]

    def can_reach(self, one: PeerId, other: PeerId) -> bool:
        """Say whether packets pass between two devices both ways, and both answer."""
        ends = (self._endpoints.get(one), self._endpoints.get(other))
        return self.paths.is_whole(one, other) and all(end and end.is_answering for end in ends)

    def is_linked(self, one: PeerId, other: PeerId) -> bool:
        """Say whether both ends hold the same link and bytes pass on it both ways."""
        link = self._links.get((one, other))
        return link is not None and link is self._links.get((other, one)) and not link.torn_from

    def neighbours(self, peer: PeerId) -> list[PeerId]:
        """Return those to whom `peer` has a link on which bytes pass, in order of attachment."""
        return [other for other in self._endpoints if self.is_linked(peer, other)]

    # What nodes do.

    def send(self, origin: PeerId, target: PeerId, message: Message) -> None:
        """Send on the link from `origin`; without a link the message is dropped and counted."""
        link, traffic = self._links.get((origin, target)), message.TRAFFIC
        if link is None:
            self.counts["network.message_without_link"] += 1
            return
        if link.waiting[origin, traffic] >= self.settings.queue_max:
            self._congest(link, origin, target, traffic)
            return
        link.waiting[origin, traffic] += 1
        self.counts["network.message_sent"] += 1
        if origin in link.torn_from:
            self._reset_if_whole(link, origin, target)
            return
        # Packed now: what the sender does to its objects afterwards must not change what arrives.
        packed = self._carrier.pack(message)
        due_us = self._due_us(link, origin, target)
        self._engine.at(due_us, partial(self._arrive, link, origin, target, packed, traffic))

    def dial(self, origin: PeerId, target: PeerId, addresses: Sequence[str]) -> None:
        """Try to open a link. The origin hears LinkUp or DialFailed, nothing if it has one."""
        boot = self._endpoints[origin].boot
        if (origin, target) in self._links or self._dialling.get((origin, target)) == boot:
            return
        self._dialling[origin, target] = boot
        fail = partial(self._fail_dial, origin, boot, target)
        answering = self._endpoints.get(target)
        if answering is None or origin == target or not set(addresses) & set(answering.addresses):
            fail("nobody with this id at these addresses", after_us=0)
        elif not self.paths.is_whole(origin, target) or not answering.is_powered:
            fail("timed out", after_us=self.settings.dial_timeout_us)
        elif not answering.is_running:
            after_us = self.paths.round_trip_us(LANE_DIAL, origin, target)
            fail("connection refused", after_us=after_us)
        else:
            after_us = sum(
                self.paths.round_trip_us(LANE_DIAL, origin, target) for _ in range(DIAL_ROUND_TRIPS)
            )
            self._engine.after(after_us, partial(self._handshake, origin, boot, target))

    def hang_up(self, holder: PeerId, other: PeerId, reason: str) -> None:
        """Close the holder's end; the other end hears of it if a packet still gets there."""
        link = self._links.get((holder, other))
        if link is not None:
            self._close(link, holder, other, reason)

    # What becomes of devices and paths.

    def process_died(self, peer: PeerId) -> None:
        """Drop the ends that a dead process held: its kernel tells the others, if it has power."""
        held = [(other, link) for (holder, other), link in self._links.items() if holder == peer]
        for other, link in held:
            del self._links[peer, other]
            if self._endpoints[peer].is_powered:
                self._finish(link, peer, other)
            else:
                self._expire(link, other, peer)

    def tear(self, pairs: Sequence[tuple[PeerId, PeerId]]) -> None:
        """Lose what is in flight from each origin to its target: their paths were cut."""
        for origin, target in pairs:
            for holder, other in ((origin, target), (target, origin)):
                link = self._links.get((holder, other))
                if link is not None:
                    link.torn_from.add(origin)
                    self._expire(link, holder, other)

    # Dials.

    def _fail_dial(
        self, origin: PeerId, boot: int, target: PeerId, reason: str, *, after_us: int
    ) -> None:
        def failed() -> None:
            if self._end_dial(origin, boot, target) and (origin, target) not in self._links:
                self.counts["network.dial_failed"] += 1
                self._endpoints[origin].deliver(DialFailed(target, reason))

        self._engine.after(after_us, failed)

    def _handshake(self, origin: PeerId, boot: int, target: PeerId) -> None:
        dialler, answering = self._endpoints[origin], self._endpoints[target]
        fail = partial(self._fail_dial, origin, boot, target)
        if dialler.boot != boot or not dialler.is_running:
            return
        if not self.can_reach(origin, target):
            fail("no answer in time", after_us=self.settings.dial_timeout_us)
            return
        ours, theirs = dialler.hello(), answering.hello()
        refusal = _refusal(ours, origin, by=theirs) or _refusal(theirs, target, by=ours)
        if refusal is None and (target, origin) not in self._links:
            refusal = self._no_room(target)
        if refusal is not None:
            fail(refusal, after_us=0)
        else:
            self._end_dial(origin, boot, target)
            if not self.is_linked(origin, target):
                self._link(dialler, ours, answering, theirs)

    def _end_dial(self, origin: PeerId, boot: int, target: PeerId) -> bool:
        """Say whether the process that dialled still waits for the answer; it waits no more."""
        is_waiting = self._dialling.get((origin, target)) == boot
        if is_waiting:
            del self._dialling[origin, target]
        return is_waiting and self._endpoints[origin].boot == boot

    def _no_room(self, peer: PeerId) -> str | None:
        links_count = sum(holder == peer for holder, _ in self._links)
        return "refused: too many links" if links_count >= self.settings.links_max else None

    def _link(self, dialler: Endpoint, ours: Hello, answering: Endpoint, theirs: Hello) -> None:
        """Give both ends the link; the dialler hears of it when the answer has travelled back."""
        origin, target = dialler.peer, answering.peer
        for holder, other in ((target, origin), (origin, target)):
            stale = self._links.get((holder, other))
            if stale is not None:  # half-open since a cut or a loss of power
                self._close(stale, holder, other, "replaced by a new link")
        link = _Link()
        self.counts["network.link_up"] += 1
        self._links[target, origin] = self._links[origin, target] = link
        came_from, reached = dialler.addresses[0], answering.addresses[0]
        inbound = LinkUp(peer=origin, hello=ours, address=came_from, is_outbound=False)
        outbound = LinkUp(peer=target, hello=theirs, address=reached, is_outbound=True)
        self._engine.after(0, partial(self._hear, link, target, origin, inbound))
        due_us = self._due_us(link, target, origin)
        self._engine.at(due_us, partial(self._hear, link, origin, target, outbound))

    def _hear(self, link: _Link, holder: PeerId, other: PeerId, event: Event) -> None:
        if self._links.get((holder, other)) is link:
            self._endpoints[holder].deliver(event)

    def _tell(self, peer: PeerId, boot: int, event: Event) -> None:
        if self._endpoints[peer].boot == boot:
            self._endpoints[peer].deliver(event)

    # Messages.

    def _due_us(self, link: _Link, origin: PeerId, target: PeerId) -> int:
        """Return when the next packet arrives: never before one that was sent earlier."""
        due_us = self._engine.now_us + self.paths.delay_us(LANE_MESSAGE, origin, target)
        link.last_due_us[origin] = max(due_us, link.last_due_us.get(origin, 0))
        return link.last_due_us[origin]

    def _arrive(
        self, link: _Link, origin: PeerId, target: PeerId, packed: object, traffic: Traffic
    ) -> None:
        if origin in link.torn_from:
            return  # lost in flight; it goes on taking up room at its sender
        link.waiting[origin, traffic] -= 1
        is_roomy = link.waiting[origin, traffic] <= self.settings.queue_max // 2
        if is_roomy and (origin, traffic) in link.congested:
            link.congested.discard((origin, traffic))
            self._hear(link, origin, target, Drained(target, traffic))
        message = self._carrier.unpack(packed)
        if message is not None:
            self._hear(link, target, origin, Received(origin, message))

    def _congest(self, link: _Link, origin: PeerId, target: PeerId, traffic: Traffic) -> None:
        self.counts["network.message_dropped"] += 1
        if (origin, traffic) not in link.congested:
            link.congested.add((origin, traffic))
            full = Congested(target, traffic)
            self._engine.after(0, partial(self._hear, link, origin, target, full))

    # Ends of links.

    def _reset_if_whole(self, link: _Link, origin: PeerId, target: PeerId) -> None:
        """Reset a torn stream: after a heal the other end no longer understands what comes."""
        if link.is_reset or not self.paths.is_whole(origin, target):
            return
        link.is_reset = True
        for holder, other in ((origin, target), (target, origin)):
            delay_us = self.paths.round_trip_us(LANE_MESSAGE, holder, other)
            self._engine.after(delay_us, partial(self._give_up, link, holder, other, "reset"))

    def _expire(self, link: _Link, holder: PeerId, other: PeerId) -> None:
        """Let one end give up when its keepalive has run out."""
        if self._links.get((holder, other)) is link and holder not in link.expiring:
            link.expiring.add(holder)
            delay_us = self.settings.keepalive_us
            delay_us += self.paths.delay_us(LANE_MESSAGE, holder, other)
            self._engine.after(
                delay_us, partial(self._give_up, link, holder, other, "keepalive timed out")
            )

    def _give_up(self, link: _Link, holder: PeerId, other: PeerId, reason: str) -> None:
        if self._links.get((holder, other)) is link:
            self._close(link, holder, other, reason)

    def _close(self, link: _Link, holder: PeerId, other: PeerId, reason: str) -> None:
        del self._links[holder, other]
        self.counts["network.link_down"] += 1
        told = partial(self._tell, holder, self._endpoints[holder].boot, LinkDown(other, reason))
        self._engine.after(0, told)
        self._finish(link, holder, other)

    def _finish(self, link: _Link, holder: PeerId, other: PeerId) -> None:
        """Tell the other end, behind what was sent before, if packets pass."""
        if self._links.get((other, holder)) is not link:
            return
        if holder in link.torn_from or not self.paths.passes(holder, other):
            self._expire(link, other, holder)
        else:
            due_us = self._due_us(link, holder, other)
            self._engine.at(due_us, partial(self._finished, link, other, holder))

    def _finished(self, link: _Link, holder: PeerId, other: PeerId) -> None:
        if other in link.torn_from:
            self._expire(link, holder, other)  # the goodbye was lost in flight
        else:
            self._give_up(link, holder, other, "closed by the peer")


def _refusal(hello: Hello, subject: PeerId, *, by: Hello) -> str | None:
    """Return why the device that says `by` refuses the one that says `hello`, None if it does not.

    Signatures are taken as verified here: no node of the simulation holds another one's signer.
    """
    if hello.mesh != by.mesh:
        return "refused: another mesh"
    if hello.protocol.common_with(by.protocol) is None:
        return "refused: no common version"
    try:
        check_chain(hello.chain, genesis=by.genesis, subject=subject)
    except NotAMember as error:
        return f"refused: {error}"
    return None
