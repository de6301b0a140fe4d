"""How messages move on links: as streams, or each for itself.

On a stream, a message that is lost is sent again and holds up those behind it, and what is in
flight when the stream tears is lost with all that follows. As datagrams (`simulations.datagrams`),
each message has a fate of its own, and none is sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from simulations.datagrams import Copy, copies
from simulations.engine import Action
from simulations.fabric import Fabric
from simulations.link_end import LinkEnd
from simulations.links import Links
from simulations.paths import LANE_DATAGRAM
from wire.errors import MalformedFrame
from wire.events import Congested, Drained, Received
from wire.ids import PeerId
from wire.messages import Message, Traffic

STALLED_RELAY_US = 50_000  # how often it is seen whether it goes on


class Carrying:
    """Carries the messages of all links.

    `datagrams` None means streams. `on_sent`, if set, hears of every message that goes on a link:
    who sends it to whom, and its bytes.
    """

    def __init__(self, fabric: Fabric, links: Links) -> None:
        self.datagrams = fabric.settings.datagrams
        self.on_sent: Callable[[PeerId, PeerId, int], None] | None = None
        self._links = links
        self._fabric = fabric
        self._engine = fabric.engine
        self._counts = fabric.counts

    def send(self, end: LinkEnd, message: Message) -> None:
        """Send on a link. Where too much waits the message is dropped, and its sender told."""
        traffic = message.TRAFFIC
        # Packed now: what the sender does to its objects afterwards must not change what arrives.
        packed, size_bytes = end.carrier.pack(message)
        if not end.has_room(traffic, size_bytes, self._fabric.settings):
            self._congest(end, traffic)
            return
        end.waiting_count[traffic] += 1
        end.waiting_bytes[traffic] += size_bytes
        self._counts["network.message_sent"] += 1
        if self.on_sent is not None:
            self.on_sent(end.origin, end.target, size_bytes)
        if self.datagrams is not None:
            self._scatter(end, packed, traffic, size_bytes)
        elif end.is_torn:
            self._links.reset_torn(end)  # the message goes on taking up room
        else:
            self._stream(end, packed, traffic, size_bytes)

    # Streams.

    def _stream(self, end: LinkEnd, packed: object, traffic: Traffic, size_bytes: int) -> None:
        arrive = partial(self._arrive, end, packed, traffic, size_bytes)
        end.transmit(self._engine, size_bytes, arrive)

    def _arrive(self, end: LinkEnd, packed: object, traffic: Traffic, size_bytes: int) -> None:
        if end.relay is not None and (end.parked or not end.relay.is_answering):
            self._park(end, partial(self._come_in, end, packed, traffic, size_bytes))
        else:
            self._come_in(end, packed, traffic, size_bytes)

    def _park(self, end: LinkEnd, come_in: Action) -> None:
        """Let what has come to a relay that stalls wait there, in order, until it goes on."""
        if not end.parked:
            self._engine.after(STALLED_RELAY_US, partial(self._unpark, end))
        end.parked.append(come_in)

    def _unpark(self, end: LinkEnd) -> None:
        if end.relay is not None and not end.relay.is_answering and end.is_held:
            self._engine.after(STALLED_RELAY_US, partial(self._unpark, end))
            return
        waiting = list(end.parked)
        end.parked.clear()
        for come_in in waiting:
            come_in()

    def _come_in(self, end: LinkEnd, packed: object, traffic: Traffic, size_bytes: int) -> None:
        if end.is_torn:
            return  # lost in flight; it goes on taking up room at its sender
        self._leave(end, traffic, size_bytes)
        if not end.back.is_up:
            self._links.reset_half_open(end)
            return
        try:
            message = end.carrier.unpack(packed)
        except MalformedFrame as error:
            self._refuse(end.back, error)
            return
        if message is not None:
            end.other.deliver(Received(end.origin, message))

    # Datagrams.

    def _scatter(self, end: LinkEnd, packed: object, traffic: Traffic, size_bytes: int) -> None:
        if end.jammed is not None:
            end.jammed.append(partial(self._scatter, end, packed, traffic, size_bytes))
            return
        if self.datagrams is None:  # calm since it was jammed
            self._stream(end, packed, traffic, size_bytes)
            return
        departs_us = end.departs_us(size_bytes, self._engine.now_us)
        self._engine.at(departs_us, partial(self._leave, end, traffic, size_bytes))
        path, fate = end.path, end.path.fate(LANE_DATAGRAM)
        arriving = copies(self.datagrams, fate, loss_permille=path.loss_permille)
        self._counts["network.datagram_lost"] += not arriving
        self._counts["network.datagram_duplicated"] += len(arriving) > 1
        for copy in arriving:
            self._counts["network.datagram_reordered"] += copy.late_us > 0
            due_us = departs_us + path.flight_us(copy.fate) + copy.late_us
            self._engine.at(due_us, partial(self._arrive_alone, end, packed, copy))

    def _arrive_alone(self, end: LinkEnd, packed: object, copy: Copy) -> None:
        """Deliver a packet on whatever link there is now, be it a later one."""
        there = self._links.held_by(end.target).get(end.origin)
        is_cut = any(self._fabric.paths.is_cut(*hop) for hop in end.hops)
        if end.relay is not None and not end.relay.is_answering:
            is_cut = True
        if there is None or not there.is_up or is_cut:
            self._counts["network.datagram_lost"] += 1
            return
        if copy.is_corrupt:
            self._counts["network.datagram_corrupted"] += 1
            packed = end.carrier.corrupt(packed, copy.fate)
        try:
            message = end.carrier.unpack(packed)
        except MalformedFrame as error:
            if copy.is_corrupt:  # nobody's fault, so nobody is banned
                self._links.close(there, f"the device sent garbage: {error}")
            else:
                self._refuse(there, error)
            return
        if message is not None:
            end.other.deliver(Received(end.origin, message))

    # Queues and offences.

    def _leave(self, end: LinkEnd, traffic: Traffic, size_bytes: int) -> None:
        end.waiting_count[traffic] -= 1
        end.waiting_bytes[traffic] -= size_bytes
        if end.is_congested[traffic] and end.is_half_empty(traffic, self._fabric.settings):
            end.is_congested[traffic] = False
            if end.is_up:
                end.holder.deliver(Drained(end.target, traffic))

    def _congest(self, end: LinkEnd, traffic: Traffic) -> None:
        self._counts["network.message_dropped"] += 1
        if not end.is_congested[traffic]:
            end.is_congested[traffic] = True
            self._engine.after(0, partial(_tell_congested, end, traffic))

    def _refuse(self, end: LinkEnd, error: MalformedFrame) -> None:
        """Do what `p2p.link_intake` does about a frame that no honest device sends: skip it, and
        the time it is one too many, close the link and ban the device for a while.
        """
        self._counts["network.frame_refused"] += 1
        bans, now_us = self._fabric.bans, self._engine.now_us
        if bans.on_refused(end.origin, end.target, error, now_us=now_us):
            self._counts["network.peer_banned"] += 1
            self._links.close(end, f"banned: {error}")


def _tell_congested(end: LinkEnd, traffic: Traffic) -> None:
    if end.is_up:
        end.holder.deliver(Congested(end.target, traffic))
