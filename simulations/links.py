"""The links between simulated devices: how they begin, tear and end.

What each end hears is what `p2p.links` tells it: LinkUp, what was received, LinkDown, in turn. A
process that dies closes its streams; a device without power says nothing. A link that is torn, or
whose other end is gone, ends by its keepalive, or by a reset when something is sent on it, unless
its holder hangs up before.

A link that a third device carries ends with the links of that device to its ends, which are direct:
none is carried by two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from p2p.circuit_book import CircuitBook, CircuitRefusal
from simulations.circuit_path import AnyPath, CircuitPath
from simulations.endpoint import Endpoint
from simulations.fabric import Fabric
from simulations.link_end import LinkEnd
from simulations.paths import LANE_MESSAGE, PeerPair
from wire.events import DialFailed, LinkDown, LinkUp
from wire.ids import PeerId
from wire.messages import Hello, LinkRefused

GOODBYE_BYTES = 64
RACE_US = 20_000_000  # `LinkSettings.dial_timeout_s` and `handshake_timeout_s` of `p2p.links`


class Links:
    """All links, by the device that holds an end and the device at the other end."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._engine = fabric.engine
        self._paths = fabric.paths
        self._ends: dict[PeerId, dict[PeerId, LinkEnd]] = {}
        self._carried: dict[PeerId, dict[LinkEnd, None]] = {}  # both ends of each, by the relay
        self._books: dict[PeerId, CircuitBook] = {}

    def attach(self, peer: PeerId) -> None:
        """Let a device have links."""
        self._ends[peer] = {}
        self._carried[peer] = {}
        self._books[peer] = CircuitBook(limits=self._fabric.settings.circuits)

    def held_by(self, holder: PeerId) -> Mapping[PeerId, LinkEnd]:
        """Return what a device has of its links, by the other device."""
        return self._ends[holder]

    def end(self, origin: PeerId, target: PeerId) -> LinkEnd | None:
        """Return the origin's end of a link to the target, even if only the target holds its."""
        end = self._ends[origin].get(target)
        if end is None:
            back = self._ends[target].get(origin)
            end = back and back.back
        return end

    def is_whole(self, end: LinkEnd) -> bool:
        """Say whether both ends hold the link and bytes pass on it both ways now."""
        back = end.back
        return (
            end.is_held
            and back.is_held
            and not end.is_torn
            and not back.is_torn
            and self._passes_both_ways(end)
        )

    def _passes_both_ways(self, end: LinkEnd) -> bool:
        return all(self._paths.is_whole(*hop) for hop in end.hops)

    def is_linked_directly(self, one: PeerId, other: PeerId) -> bool:
        """Say whether two devices have such a link that no third one carries."""
        end = self._ends.get(one, {}).get(other)
        return end is not None and not end.is_relayed and self.is_whole(end)

    def circuit_refusal(
        self, origin: PeerId, relay: PeerId, target: PeerId
    ) -> CircuitRefusal | None:
        """Return why a device that `origin` is linked with directly carries no link for it."""
        return self._books[relay].refusal(
            origin, target, is_target_linked=self.is_linked_directly(relay, target)
        )

    def is_linked(self, one: PeerId, other: PeerId) -> bool:
        """Say whether two devices have a link on which bytes pass both ways now."""
        end = self._ends[one].get(other)
        return end is not None and self.is_whole(end)

    # Beginnings.

    def takes_for_twin(self, current: LinkEnd | None, *, is_relayed: bool = False) -> bool:
        """Say whether a link that the other device dials now counts as one with `current`.

        Within the time that a dial may take, a device cannot tell the second of two dials that
        crossed from a dial of a device that has forgotten the link (`p2p.link_table`).
        """
        return (
            current is not None
            and current.is_outbound
            and current.is_relayed is is_relayed
            and self._engine.now_us - current.established_us <= RACE_US
        )

    def begin(
        self,
        dialler: Endpoint,
        ours: Hello,
        answering: Endpoint,
        theirs: Hello,
        relay: Endpoint | None = None,
    ) -> None:
        """Give both ends a link; the dialler hears of it when the answer has travelled back.

        A half-open link is replaced; if it counts as a twin, the device that is dialled does not
        even hear of it.
        """
        origin, target = dialler.peer, answering.peer
        stale = self._ends[target].get(origin)
        is_twin = self.takes_for_twin(stale, is_relayed=relay is not None)
        goes_on = stale is not None and stale.is_up and is_twin
        if stale is not None and goes_on:
            self._fabric.counts["network.half_open_continued"] += 1
            self.drop(stale)
        elif stale is not None:
            self.close(stale, "replaced by a new link")
        here = self._new_end(dialler, answering, relay, is_outbound=True)
        there = self._new_end(answering, dialler, relay, is_outbound=False)
        here.back, there.back = there, here
        self._fabric.counts["network.link_up"] += 1
        came_from, reached, via = dialler.addresses[0], answering.addresses[0], None
        if relay is not None:
            self._fabric.counts["network.circuit_begun"] += 1
            self._books[relay.peer].begin(origin, target)
            came_from, reached, via = "", "", relay.peer
        if goes_on:
            there.is_up = True
        else:
            inbound = LinkUp(peer=origin, hello=ours, address=came_from, is_outbound=False, via=via)
            self._engine.after(0, partial(self._come_up, there, inbound))
        outbound = LinkUp(peer=target, hello=theirs, address=reached, is_outbound=True, via=via)
        there.transmit(self._engine, 0, partial(self._come_up, here, outbound))

    def _new_end(
        self, holder: Endpoint, other: Endpoint, relay: Endpoint | None, *, is_outbound: bool
    ) -> LinkEnd:
        origin, target = holder.peer, other.peer
        stale = self._ends[origin].get(target)
        if stale is not None:
            self.close(stale, "replaced by a new link")
        end = LinkEnd(
            holder=holder,
            other=other,
            origin=origin,
            target=target,
            path=self._path(origin, target, relay),
            carrier=self._fabric.carrier_of(origin),
            is_outbound=is_outbound,
            established_us=self._engine.now_us,
            relay=relay,
            book=None if relay is None else self._books[relay.peer],
            hops=_hops(origin, target, relay),
        )
        self._ends[origin][target] = end
        if relay is not None:
            self._carried[relay.peer][end] = None
        return end

    def _path(self, origin: PeerId, target: PeerId, relay: Endpoint | None) -> AnyPath:
        paths = self._paths
        if relay is None:
            return paths.path(origin, target)
        bytes_per_s = self._fabric.settings.circuits.bytes_per_s_max
        first, second = paths.path(origin, relay.peer), paths.path(relay.peer, target)
        return CircuitPath(first, second, bytes_per_s)

    def _come_up(self, end: LinkEnd, up: LinkUp) -> None:
        if end.is_held and end.is_outbound and end.back.is_torn:  # the answer was lost
            self.drop(end)
            self.expire(end.back)
            self.fail_dial(
                end.holder,
                end.target,
                "no answer in time",
                after_us=self._fabric.settings.dial_timeout_us,
            )
        elif end.is_held:
            end.is_up = True
            end.holder.deliver(up)

    def fail_dial(
        self,
        origin: Endpoint,
        target: PeerId,
        reason: str,
        *,
        after_us: int,
        refusal: LinkRefused | None = None,
    ) -> None:
        """Let this boot of a device hear in a while that it has no link, unless it has one then."""
        boot = origin.boot

        def failed() -> None:
            if origin.boot == boot and target not in self._ends[origin.peer]:
                self._fabric.counts["network.dial_failed"] += 1
                origin.deliver(DialFailed(target, reason, refusal))

        self._engine.after(after_us, failed)

    # Faults.

    def _ends_on(self, hop: PeerPair) -> list[LinkEnd]:
        """Return the ends whose packets go from one device to another on their way."""
        origin, target = hop
        found = self.end(origin, target)
        direct = [] if found is None or found.is_relayed else [found]
        carried = [end for one in hop for end in self._carried.get(one, ()) if hop in end.hops]
        return direct + carried

    def tear(self, pairs: Iterable[PeerPair]) -> None:
        """Lose what is in flight from each origin to its target."""
        for hop in pairs:
            for end in self._ends_on(hop):
                end.is_torn = True
                self.expire(end)
                self.expire(end.back)

    def jam(self, pairs: Iterable[PeerPair]) -> None:
        """Let what is sent from each origin to its target wait at the origin."""
        for hop in pairs:
            for end in self._ends_on(hop):
                end.jam()

    def release(self, pairs: Iterable[PeerPair]) -> None:
        """Send what waits, in order."""
        for hop in pairs:
            for end in self._ends_on(hop):
                if not any(self._paths.is_jammed(*one) for one in end.hops):
                    end.release()

    def process_died(self, peer: PeerId, *, is_powered: bool) -> None:
        """Drop the ends that a dead process held: its kernel tells the others, if it has power."""
        self._books[peer] = CircuitBook(limits=self._fabric.settings.circuits)
        for end in list(self._ends[peer].values()):
            self.drop(end)
            if is_powered:
                self._finish(end)
            else:
                end.lose_power(self._engine.now_us)
                self.expire(end.back)

    # Ends.

    def reset_torn(self, end: LinkEnd) -> None:
        """Reset a torn stream: after a heal the other end no longer understands what comes."""
        if not self._passes_both_ways(end):
            return
        for one in (end, end.back):
            there_us, back_us = (way.path.delay_us(LANE_MESSAGE) for way in (one, one.back))
            self._reset_after(one, there_us + back_us)

    def reset_half_open(self, end: LinkEnd) -> None:
        """Nobody holds the other end: the device there says so, if it has power."""
        if end.other.is_powered and all(self._paths.passes(*hop) for hop in end.back.hops):
            self._reset_after(end, end.back.path.delay_us(LANE_MESSAGE))

    def _reset_after(self, end: LinkEnd, delay_us: int) -> None:
        if end.is_held and not end.is_resetting:
            end.is_resetting = True
            self._engine.after(delay_us, partial(self._give_up, end, "reset"))

    def expire(self, end: LinkEnd) -> None:
        """Let one end give up when its keepalive has run out."""
        if end.is_held and not end.is_expiring:
            end.is_expiring = True
            delay_us = self._fabric.settings.keepalive_us + end.path.delay_us(LANE_MESSAGE)
            self._engine.after(delay_us, partial(self._give_up, end, "keepalive timed out"))

    def _give_up(self, end: LinkEnd, reason: str) -> None:
        if end.is_held:
            self.close(end, reason)

    def close(self, end: LinkEnd, reason: str) -> None:
        """Let the holder of an end be done with it; the other device hears of it if it can."""
        is_known = end.is_up
        self.drop(end)
        if is_known:
            self._fabric.counts["network.link_down"] += 1
            down = LinkDown(end.target, reason)
            self._engine.after(0, partial(_tell, end.holder, end.holder.boot, down))
        elif end.is_outbound:
            self.fail_dial(end.holder, end.target, reason, after_us=0)
        self._finish(end)
        if not end.is_relayed:
            self._end_circuits(end)

    def _end_circuits(self, end: LinkEnd) -> None:
        """End what went over a direct link, at the device that has given it up."""
        holder, other = end.origin, end.target
        for one in list(self._ends[holder].values()):
            if one.relay is end.other:
                self.close(one, "the device that carried it is gone")
        for one in list(self._carried[holder]):
            if one.target == other:
                self._tell_of_end(one, carrier=holder)

    def _tell_of_end(self, end: LinkEnd, *, carrier: PeerId) -> None:
        if self._paths.is_cut(carrier, end.origin):
            self.expire(end)
            return
        delay_us = self._paths.delay_us(LANE_MESSAGE, carrier, end.origin)
        self._engine.after(delay_us, partial(self._give_up, end, "its carrier lost the other end"))

    def drop(self, end: LinkEnd) -> None:
        """Let the holder of an end hold it no more; nobody hears of it."""
        end.is_held = end.is_up = False
        del self._ends[end.origin][end.target]
        if end.relay is not None:
            self._carried[end.relay.peer].pop(end, None)
            if end.book is not None and end.back.is_held:
                end.book.end(end.origin, end.target)

    def _finish(self, end: LinkEnd) -> None:
        """Tell the other end, behind what was sent before, if packets pass."""
        if not end.back.is_held:
            return
        if self._is_lost(end):
            self.expire(end.back)
        else:
            end.transmit(self._engine, GOODBYE_BYTES, partial(self._finished, end))

    def _finished(self, end: LinkEnd) -> None:
        if self._is_lost(end):
            self.expire(end.back)  # the goodbye was lost in flight
        else:
            self._give_up(end.back, "closed by the peer")

    def _is_lost(self, end: LinkEnd) -> bool:
        if end.relay is not None and not end.relay.is_running:
            return True
        return end.is_torn or any(self._paths.is_cut(*hop) for hop in end.hops)


def _hops(origin: PeerId, target: PeerId, relay: Endpoint | None) -> tuple[PeerPair, ...]:
    if relay is None:
        return ((origin, target),)
    return ((origin, relay.peer), (relay.peer, target))


def _tell(holder: Endpoint, boot: int, down: LinkDown) -> None:
    if holder.boot == boot:
        holder.deliver(down)
