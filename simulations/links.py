"""The links between simulated devices: how they begin, tear and end.

What each end hears is what `p2p.links` tells it: LinkUp, what was received, LinkDown, in turn. A
process that dies closes its streams; a device without power says nothing. A link that is torn, or
whose other end is gone, ends by its keepalive, or by a reset when something is sent on it, unless
its holder hangs up before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

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

    def attach(self, peer: PeerId) -> None:
        """Let a device have links."""
        self._ends[peer] = {}

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
            and self._paths.is_whole(end.origin, end.target)
        )

    def is_linked(self, one: PeerId, other: PeerId) -> bool:
        """Say whether two devices have a link on which bytes pass both ways now."""
        end = self._ends[one].get(other)
        return end is not None and self.is_whole(end)

    # Beginnings.

    def takes_for_twin(self, current: LinkEnd | None) -> bool:
        """Say whether a link that the other device dials now counts as one with `current`.

        Within the time that a dial may take, a device cannot tell the second of two dials that
        crossed from a dial of a device that has forgotten the link (`p2p.link_table`).
        """
        return (
            current is not None
            and current.is_outbound
            and self._engine.now_us - current.established_us <= RACE_US
        )

    def begin(self, dialler: Endpoint, ours: Hello, answering: Endpoint, theirs: Hello) -> None:
        """Give both ends a link; the dialler hears of it when the answer has travelled back.

        A half-open link is replaced; if it counts as a twin, the device that is dialled does not
        even hear of it.
        """
        origin, target = dialler.peer, answering.peer
        stale = self._ends[target].get(origin)
        goes_on = stale is not None and stale.is_up and self.takes_for_twin(stale)
        if stale is not None and goes_on:
            self._fabric.counts["network.half_open_continued"] += 1
            self.drop(stale)
        elif stale is not None:
            self.close(stale, "replaced by a new link")
        here = self._new_end(dialler, answering, is_outbound=True)
        there = self._new_end(answering, dialler, is_outbound=False)
        here.back, there.back = there, here
        self._fabric.counts["network.link_up"] += 1
        came_from, reached = dialler.addresses[0], answering.addresses[0]
        if goes_on:
            there.is_up = True
        else:
            inbound = LinkUp(peer=origin, hello=ours, address=came_from, is_outbound=False)
            self._engine.after(0, partial(self._come_up, there, inbound))
        outbound = LinkUp(peer=target, hello=theirs, address=reached, is_outbound=True)
        there.transmit(self._engine, 0, partial(self._come_up, here, outbound))

    def _new_end(self, holder: Endpoint, other: Endpoint, *, is_outbound: bool) -> LinkEnd:
        origin, target = holder.peer, other.peer
        stale = self._ends[origin].get(target)
        if stale is not None:
            self.close(stale, "replaced by a new link")
        end = LinkEnd(
            holder=holder,
            other=other,
            origin=origin,
            target=target,
            path=self._paths.path(origin, target),
            carrier=self._fabric.carrier_of(origin),
            is_outbound=is_outbound,
            established_us=self._engine.now_us,
        )
        self._ends[origin][target] = end
        return end

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

    def tear(self, pairs: Iterable[PeerPair]) -> None:
        """Lose what is in flight from each origin to its target."""
        for origin, target in pairs:
            end = self.end(origin, target)
            if end is not None:
                end.is_torn = True
                self.expire(end)
                self.expire(end.back)

    def jam(self, pairs: Iterable[PeerPair]) -> None:
        """Let what is sent from each origin to its target wait at the origin."""
        for origin, target in pairs:
            end = self.end(origin, target)
            if end is not None:
                end.jam()

    def release(self, pairs: Iterable[PeerPair]) -> None:
        """Send what waits, in order."""
        for origin, target in pairs:
            end = self.end(origin, target)
            if end is not None:
                end.release()

    def process_died(self, peer: PeerId, *, is_powered: bool) -> None:
        """Drop the ends that a dead process held: its kernel tells the others, if it has power."""
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
        if not self._paths.is_whole(end.origin, end.target):
            return
        for one in (end, end.back):
            self._reset_after(one, self._paths.round_trip_us(LANE_MESSAGE, one.origin, one.target))

    def reset_half_open(self, end: LinkEnd) -> None:
        """Nobody holds the other end: the device there says so, if it has power."""
        if end.other.is_powered and self._paths.passes(end.target, end.origin):
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

    def drop(self, end: LinkEnd) -> None:
        """Let the holder of an end hold it no more; nobody hears of it."""
        end.is_held = end.is_up = False
        del self._ends[end.origin][end.target]

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
        return end.is_torn or self._paths.is_cut(end.origin, end.target)


def _tell(holder: Endpoint, boot: int, down: LinkDown) -> None:
    if holder.boot == boot:
        holder.deliver(down)
