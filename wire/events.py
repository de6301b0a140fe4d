"""What happened, as hosts tell the cores. Messages in events are decoded and verified."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

from msgspec import Struct

from wire.commands import Command
from wire.content import Content
from wire.effects import Row, RunId
from wire.execution import ExecutionFailure, ExecutionStatus
from wire.ids import Digest, PeerId, StoreId
from wire.membership import JoinRequest
from wire.messages import Hello, LinkRefused, Message, Traffic


class Restarted(Struct, frozen=True, kw_only=True):
    """The first event after a start: what the store holds, in the order it was first written."""

    store: StoreId
    rows: tuple[Row, ...]


class WallClockRead(Struct, frozen=True):
    """The wall clock and how far it may be off; None where it is not known."""

    wall_us: int
    uncertainty_us: int | None


class Listening(Struct, frozen=True):
    """This device can be reached at these addresses."""

    addresses: tuple[str, ...]


class LinkUp(Struct, frozen=True, kw_only=True):
    """A handshake succeeded: the peer's chain leads to this mesh's founder."""

    peer: PeerId
    hello: Hello
    address: str  # where the peer was reached or came from
    is_outbound: bool
    via: PeerId | None = None  # who carries the link's bytes between the two; None: nobody


class LinkDown(Struct, frozen=True):
    """A link ended."""

    peer: PeerId
    reason: str


class DialFailed(Struct, frozen=True):
    """A device could not be reached, or refused the link; then `refusal` is what it said."""

    peer: PeerId
    reason: str
    refusal: LinkRefused | None = None


class PeerSeen(Struct, frozen=True):
    """Somebody told where a device may be: the LAN, an invitation, the configuration."""

    peer: PeerId
    addresses: tuple[str, ...]
    source: str


class PeerNeeded(Struct, frozen=True):
    """The host is about to link to a device for a short while, to ask it something itself."""

    peer: PeerId


class Received(Struct, frozen=True):
    """A message came on the link to `peer`."""

    peer: PeerId
    message: Message


class PublishedReceived(Struct, frozen=True):
    """Records came by GossipSub, forwarded by whoever; their owners signed them.

    `author` published them, whose signature the host has checked; None where there is no host.
    """

    message: Message
    author: PeerId | None = None


class Congested(Struct, frozen=True):
    """The queue of one class to `peer` is full: what is sent now is dropped."""

    peer: PeerId
    traffic: Traffic


class Drained(Struct, frozen=True):
    """There is room again."""

    peer: PeerId
    traffic: Traffic


class TimerDue(Struct, frozen=True):
    """A timer ran out."""

    key: Hashable


class PersistFailed(Struct, frozen=True):
    """The store does not write any more: promise nothing, drain, restart from disk."""

    reason: str


class Loaded(Struct, frozen=True):
    """The rows that a `Load` asked for, newest first."""

    token: Hashable
    rows: tuple[Row, ...]


class Provider(Struct, frozen=True):
    """A device that a lookup named, with addresses. It proves nothing."""

    peer: PeerId
    addresses: tuple[str, ...]


class ProvidersFound(Struct, frozen=True):
    """What a lookup found; empty when nothing was, or when the DHT is off."""

    token: Hashable
    providers: tuple[Provider, ...]


class Fetched(Struct, frozen=True):
    """The content is here, and is what it should be."""

    token: Hashable


class FetchFailed(Struct, frozen=True):
    """The content could not be had, or is not what it should be (`is_wrong`)."""

    token: Hashable
    reason: str
    is_wrong: bool = False


class TransferMeasured(Struct, frozen=True):
    """How fast content went between here and a peer."""

    peer: PeerId
    sent_bytes: int
    received_bytes: int
    duration_us: int


class Executed(Struct, frozen=True, kw_only=True):
    """A program ran to an end, whichever. Outputs are sealed under the batch key."""

    run: RunId
    status: ExecutionStatus
    exit_code: int
    output: Content
    output_digest: Digest
    log: Content | None
    detail: str
    fuel_used: int
    wall_us: int


class ExecutionFailed(Struct, frozen=True):
    """This device could not run the program."""

    run: RunId
    reason: ExecutionFailure
    detail: str


class Sampled(Struct, frozen=True):
    """A reading of this device's sensors, encoded as `telemetry.Sample`."""

    sample: bytes


class Asked(Struct, frozen=True):
    """A person wants something, through `meshctl`."""

    request: int
    command: Command


class AskedNoMore(Struct, frozen=True):
    """Whoever asked has gone: its streaming answer ends."""

    request: int


class JoinAsked(Struct, frozen=True):
    """A device that is no member yet shows an invitation; the connection proved its id."""

    request: int
    peer: PeerId
    join: JoinRequest


class Stopping(Struct, frozen=True):
    """The daemon will stop: say goodbye, take no new work."""


Event: TypeAlias = (
    Restarted
    | WallClockRead
    | Listening
    | LinkUp
    | LinkDown
    | DialFailed
    | PeerSeen
    | PeerNeeded
    | Received
    | PublishedReceived
    | Congested
    | Drained
    | TimerDue
    | PersistFailed
    | Loaded
    | ProvidersFound
    | Fetched
    | FetchFailed
    | TransferMeasured
    | Executed
    | ExecutionFailed
    | Sampled
    | Asked
    | AskedNoMore
    | JoinAsked
    | Stopping
)
