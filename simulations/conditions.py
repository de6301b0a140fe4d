"""How paths differ from the usual, and how a network that keeps no order behaves: settings only."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

DURATION_US_MAX = 3_600_000_000

DurationUs: TypeAlias = Annotated[int, Meta(ge=0, le=DURATION_US_MAX)]
Permille: TypeAlias = Annotated[int, Meta(ge=0, le=1_000)]
BytesPerSecond: TypeAlias = Annotated[int, Meta(ge=1)]
NodeIndex: TypeAlias = Annotated[int, Meta(ge=0)]
RegionName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class Conditions(Struct, frozen=True, kw_only=True):
    """What is wrong with a path for a while. Several at once add up; of caps the lowest holds."""

    latency_us: DurationUs = 0  # one way
    jitter_us: DurationUs = 0
    loss_permille: Permille = 0
    bytes_per_second: BytesPerSecond | None = None


class RegionLink(Struct, frozen=True, kw_only=True):
    """The paths between the devices of two regions, both ways; or, twice the same, within one."""

    one: RegionName
    other: RegionName
    latency_us: DurationUs  # one way
    jitter_us: DurationUs = 0
    loss_permille: Permille = 0
    bytes_per_second: BytesPerSecond | None = None  # None: no limit


class Datagrams(Struct, frozen=True, kw_only=True):
    """A network without streams: each message is a packet that has a fate of its own.

    Streams, which production has, forbid all of this: that one message is lost and the next one
    arrives; that one comes twice, or before one that was sent earlier, or on the next link to the
    same device, after the end of the link on which it was sent; that a message arrives changed; and
    that a link outlives a cut, with a hole in what it brought. What is safe here is safe because of
    what the protocol says, not because of what TCP does. Whether anything gets done is another
    question, so `Network.calm` ends it.
    """

    loss_permille: Permille = 0
    duplicate_permille: Permille = 0
    reorder_permille: Permille = 0
    reorder_us_max: DurationUs = 1_000_000  # by how much a reordered packet may come late
    corrupt_permille: Permille = 0
