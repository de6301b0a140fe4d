"""What a SWIM node wants done, and the timers that it sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from benchmarks.membership.swim_members import Changed, SuspicionDue
from benchmarks.membership.swim_messages import Address, Message, StreamMessage


@dataclass(frozen=True, slots=True)
class ProbeTick:
    """The next probe may begin."""


@dataclass(frozen=True, slots=True)
class ProbeTimeout:
    """The probed node has not answered directly."""

    sequence: int


@dataclass(frozen=True, slots=True)
class ProbeEnd:
    """The probed node has not answered at all."""

    sequence: int


@dataclass(frozen=True, slots=True)
class RelayEnd:
    """The node that was pinged for another has not answered."""

    sequence: int


@dataclass(frozen=True, slots=True)
class GossipDue:
    """Updates that found no packet to travel with go out alone."""


@dataclass(frozen=True, slots=True)
class PushPullDue:
    """All is exchanged with someone."""


@dataclass(frozen=True, slots=True)
class ReconnectDue:
    """A failed node may be tried again."""


@dataclass(frozen=True, slots=True)
class JoinDue:
    """Nobody could be joined: try again."""


@dataclass(frozen=True, slots=True)
class StreamTimeout:
    """A stream brought no answer."""

    token: int


TimerKey: TypeAlias = (
    ProbeTick
    | ProbeTimeout
    | ProbeEnd
    | RelayEnd
    | GossipDue
    | PushPullDue
    | ReconnectDue
    | JoinDue
    | StreamTimeout
    | SuspicionDue
)


class SendPacket(Struct, frozen=True, gc=False):
    """Send a datagram, which may be lost."""

    address: Address
    parts: tuple[Message, ...]


class OpenStream(Struct, frozen=True, gc=False):
    """Send `message` over TCP; the answer comes back with the token, or nothing does.

    Positive tokens are the sequences of probes, negative ones exchanges of all state.
    """

    address: Address
    message: StreamMessage
    token: int


class SetTimer(Struct, frozen=True, gc=False):
    """Call back in `after_us`; setting a key again replaces its timer."""

    key: TimerKey
    after_us: int


Effect: TypeAlias = SendPacket | OpenStream | SetTimer | Changed
