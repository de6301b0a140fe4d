"""One end of a link between simulated devices: what its holder sends, and what waits to be sent.

A link is two of these. Each end is held until its holder knows that the link is over, so one may be
held alone: that is what a half-open connection is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial

from p2p.circuit_book import CircuitBook
from simulations.circuit_path import AnyPath
from simulations.endpoint import Carrier, Endpoint
from simulations.engine import US_PER_S, Action, Engine
from simulations.paths import LANE_MESSAGE, NetworkSettings, PeerPair
from wire.ids import PeerId
from wire.messages import Traffic


@dataclass(eq=False, slots=True, kw_only=True)
class LinkEnd:
    """What one device has of a link, and the stream from it to the other device."""

    holder: Endpoint
    other: Endpoint
    origin: PeerId  # the holder, and
    target: PeerId  # the other: kept here because each message asks for them
    path: AnyPath
    carrier: Carrier
    is_outbound: bool
    established_us: int
    relay: Endpoint | None = None  # who carries it, and
    book: CircuitBook | None = None  # where it counts this circuit
    hops: tuple[PeerPair, ...] = ()  # the ways that its holder's packets take, one after the other
    back: LinkEnd = field(init=False)
    is_held: bool = True
    is_up: bool = False  # its holder has heard LinkUp, and no LinkDown since
    is_torn: bool = False  # some of what its holder sent was lost
    is_expiring: bool = False  # its keepalive runs
    is_resetting: bool = False  # it is about to learn that the other end is gone
    jammed: deque[Action] | None = None  # what is sent when the path lets something pass again
    parked: deque[Action] = field(default_factory=deque)  # what has come to a relay that stalls
    free_us: int = 0  # when all that was given to it so far has left
    last_due_us: int = 0  # when the last of it arrives
    waiting_count: list[int] = field(default_factory=lambda: [0] * len(Traffic))
    waiting_bytes: list[int] = field(default_factory=lambda: [0] * len(Traffic))
    is_congested: list[bool] = field(default_factory=lambda: [False] * len(Traffic))

    @property
    def is_relayed(self) -> bool:
        """Whether a third device carries the link."""
        return self.relay is not None

    def has_room(self, traffic: Traffic, size_bytes: int, settings: NetworkSettings) -> bool:
        """Say whether a message may wait. One may, however long it is, where none waits yet."""
        waiting_count = self.waiting_count[traffic]
        if waiting_count == 0:
            return True
        return (
            waiting_count < settings.queue_max
            and self.waiting_bytes[traffic] + size_bytes <= settings.queue_bytes_max[traffic]
        )

    def is_half_empty(self, traffic: Traffic, settings: NetworkSettings) -> bool:
        """Say whether so little waits that a congestion is over."""
        return (
            self.waiting_count[traffic] * 2 <= settings.queue_max
            and self.waiting_bytes[traffic] * 2 <= settings.queue_bytes_max[traffic]
        )

    def transmit(self, engine: Engine, size_bytes: int, arrive: Action) -> None:
        """Let `arrive` happen when so many bytes are there, behind all that was sent before."""
        if self.jammed is not None:
            self.jammed.append(partial(self.transmit, engine, size_bytes, arrive))
            return
        due_us = self.departs_us(size_bytes, engine.now_us) + self.path.delay_us(LANE_MESSAGE)
        if due_us < self.last_due_us:
            due_us = self.last_due_us
        self.last_due_us = due_us
        engine.at(due_us, arrive)

    def departs_us(self, size_bytes: int, now_us: int) -> int:
        """Return when the last of `size_bytes` leaves, behind all that was sent before."""
        bytes_per_second = self.path.bytes_per_second
        if bytes_per_second is None:
            return now_us
        begins_us = self.free_us if self.free_us > now_us else now_us
        self.free_us = begins_us + size_bytes * US_PER_S // bytes_per_second
        return self.free_us

    def jam(self) -> None:
        """Let what is sent from now on wait."""
        if self.jammed is None:
            self.jammed = deque()

    def release(self) -> None:
        """Send what waits, in order."""
        if self.jammed is not None:
            waiting, self.jammed = self.jammed, None
            for send in waiting:
                send()

    def lose_power(self, now_us: int) -> None:
        """Lose what has not left the holder yet, and with it what the stream has in flight."""
        self.is_torn |= self.free_us > now_us or bool(self.jammed)
        if self.jammed is not None:
            self.jammed.clear()
