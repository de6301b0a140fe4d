"""Gossip state: records that each device signs about itself, ordered by (incarnation, counter).

A record's body is opaque here, so that a kind a newer peer invented is skipped, not refused.
"""

from __future__ import annotations

import enum
import itertools
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Struct

from wire.ids import PeerId, StoreId
from wire.membership import Addresses
from wire.strict import decode_strictly
from wire.text import CapabilityKey as CapabilityKey
from wire.text import Name, NameOrNothing

RECORD_BYTES_MAX = 8 * 1024
CAPABILITIES_MAX = 128
PROFILES_MAX = 8
OBSERVERS_MAX = 8
SILENT_MAX = 64
OBSERVATIONS_MAX = 48

Counter = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
ObservedCount = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]


class RecordKind(enum.StrEnum):
    """The kinds of record of this version."""

    PRESENCE = "presence"
    CAPABILITIES = "capabilities"
    TELEMETRY = "telemetry"
    WATCH = "watch"
    OBSERVATIONS = "observations"


KNOWN_KINDS: frozenset[str] = frozenset(RecordKind)


class Record(Struct, frozen=True, kw_only=True):
    """One device's latest word of one kind. A higher (incarnation, counter) replaces a lower."""

    DOMAIN: ClassVar[bytes] = b"meshd/record/1"

    owner: PeerId
    kind: Annotated[str, Meta(min_length=1, max_length=32)]
    incarnation: Counter
    counter: Counter
    body: Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]

    @property
    def version(self) -> tuple[int, int]:
        """What orders the records of one owner and kind."""
        return self.incarnation, self.counter


class ProtocolRange(Struct, frozen=True, array_like=True):
    """The lowest and highest version of the link protocol that a device speaks."""

    lowest: Annotated[int, Meta(ge=1, le=1_000)]
    highest: Annotated[int, Meta(ge=1, le=1_000)]

    def __post_init__(self) -> None:
        """Refuse an empty range: msgspec turns the ValueError into a decoding error."""
        if self.lowest > self.highest:
            raise ValueError(f"a protocol range from {self.lowest} to {self.highest}")

    def common_with(self, other: ProtocolRange) -> int | None:
        """Return the highest version both speak, None if there is none."""
        highest = min(self.highest, other.highest)
        return highest if highest >= max(self.lowest, other.lowest) else None


class Presence(Struct, frozen=True, kw_only=True):
    """A device is here, under these addresses. `has_left` is its goodbye."""

    name: Name
    node_type: Name
    region: NameOrNothing = ""
    addresses: Addresses = ()
    protocol: ProtocolRange
    engine_profiles: Annotated[tuple[Name, ...], Meta(max_length=PROFILES_MAX)] = ()
    store: StoreId
    has_left: bool = False


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a device provides, sorted."""

    keys: Annotated[tuple[CapabilityKey, ...], Meta(max_length=CAPABILITIES_MAX)] = ()


class Watch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who observes a device, and whom of those that it observes itself it does not hear, sorted.

    Observers and subjects as in Rapid (Suresh et al. 2018, *Stable and Consistent Membership at
    Scale with Rapid*, section 3), but the subject chooses its observers, among its links.
    """

    observers: Annotated[tuple[PeerId, ...], Meta(max_length=OBSERVERS_MAX)] = ()
    silent: Annotated[tuple[PeerId, ...], Meta(max_length=SILENT_MAX)] = ()


class Observation(Struct, frozen=True, array_like=True):
    """How often a device did well, failed or was wrong at tasks of one kind, for who signs it.

    Counts only grow (docs/protocol/reputation.md).
    """

    subject: PeerId
    task_kind: Name
    valid_count: ObservedCount
    failed_count: ObservedCount
    disputed_count: ObservedCount

    @property
    def slot(self) -> tuple[PeerId, str]:
        """What it is about: there is one observation of each."""
        return self.subject, self.task_kind


class Observations(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a device observed of others, sorted, each slot once.

    Within a generation of an incarnation no slot goes and no count falls.
    """

    generation: Counter = 0
    slots: Annotated[tuple[Observation, ...], Meta(max_length=OBSERVATIONS_MAX)] = ()

    def __post_init__(self) -> None:
        """Refuse a slot named twice, or out of order: msgspec makes it a decoding error."""
        names = [one.slot for one in self.slots]
        if any(after <= before for before, after in itertools.pairwise(names)):
            raise ValueError("observations out of order")


def decode_presence(body: bytes) -> Presence:
    """Return the presence in a record's body. Raises MalformedFrame."""
    return decode_strictly(_presence, body, "presence")


def decode_capabilities(body: bytes) -> Capabilities:
    """Return the capabilities in a record's body. Raises MalformedFrame."""
    return decode_strictly(_capabilities, body, "capabilities")


def decode_watch(body: bytes) -> Watch:
    """Return the watch in a record's body. Raises MalformedFrame."""
    return decode_strictly(_watch, body, "watch")


def decode_observations(body: bytes) -> Observations:
    """Return the observations in a record's body. Raises MalformedFrame."""
    return decode_strictly(_observations, body, "observations")


_presence = msgspec.msgpack.Decoder(Presence)
_capabilities = msgspec.msgpack.Decoder(Capabilities)
_watch = msgspec.msgpack.Decoder(Watch)
_observations = msgspec.msgpack.Decoder(Observations)
