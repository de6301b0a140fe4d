"""What this device measured itself about each peer: round trips, transfer rates, outcomes.

These figures outrank whatever the peer claims. They are integers, so that they persist and compare
exactly. A failure of the *device* (worker died, lease ran out) counts against it; a trapping module
is its submitter's and is reported as a success.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta, Struct

from telemetry.outcomes import COUNT_MAX, NO_COUNTS, Counts, OutcomeCount, Outcomes, Remembered
from telemetry.sample import BitsPerSecond
from wire.ids import PeerId
from wire.text import Name

ROUND_TRIPS_MAX = 20
TRANSFER_BYTES_MIN = 64 * 1024
PEERS_MAX = 2_000
BITS_PER_SECOND_MAX = 1 << 50
# A new transfer counts a quarter: after eight of them nine tenths of an old rate are forgotten.
_RATE_MEMORY = 3
# A device has one node type, and tasks ask for that or for none; the rest is from earlier types.
KINDS_MAX = 4
ANY_KIND = "any"  # of a task that asks for no node type, and whatever is beyond the bound


class MeasurementRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One peer's figures as the store keeps them.

    Round trips are left out: they describe the network of this run and are back within a minute.
    """

    peer: PeerId
    up_bits_per_second: BitsPerSecond | None = None
    down_bits_per_second: BitsPerSecond | None = None
    errors_in_a_row_count: OutcomeCount = 0
    valid_in_a_row_count: OutcomeCount = 0
    outcomes: Annotated[dict[Name, Outcomes], Meta(max_length=KINDS_MAX)] = {}  # by kind of task


class Measured(Struct, frozen=True, kw_only=True):
    """What is known about one peer now. `None` means never measured.

    `round_trip_us` is the median of the last `round_trips_count` (at most 20) round trips. Rates
    are seen from the peer: up is what it sent to us, down is what it took from us.
    """

    round_trip_us: int | None = None
    round_trips_count: int = 0
    up_bits_per_second: int | None = None
    down_bits_per_second: int | None = None
    successes_count: int = 0
    failures_count: int = 0
    errors_in_a_row_count: int = 0
    valid_in_a_row_count: int = 0
    disputes_count: int = 0


@dataclass(slots=True)
class _Peer:
    round_trips_us: deque[int] = field(default_factory=lambda: deque(maxlen=ROUND_TRIPS_MAX))
    up_bits_per_second: int | None = None
    down_bits_per_second: int | None = None
    errors_in_a_row_count: int = 0
    valid_in_a_row_count: int = 0
    outcomes: dict[str, Outcomes] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Measurements:
    """The measurements of at most `peers_max` peers.

    When one more peer is measured, the one that was measured longest ago is forgotten; its stored
    record can be given back with `from_record`. The default equals the directory's bound.
    """

    peers_max: int = PEERS_MAX
    age_h: int = 0  # hours that this device's daemon ran, in all its life
    _peers: OrderedDict[PeerId, _Peer] = field(default_factory=OrderedDict)

    def on_round_trip(self, peer: PeerId, round_trip_us: int) -> None:
        """Note one round trip to `peer`, of a heartbeat, a probe or an offer."""
        self._touched(peer).round_trips_us.append(max(0, round_trip_us))

    def on_received(self, peer: PeerId, transfer_bytes: int, duration_us: int) -> None:
        """Note a blob that came from `peer`. Under 64 KiB it says more of latency: ignored."""
        if transfer_bytes >= TRANSFER_BYTES_MIN:
            known = self._touched(peer)
            known.up_bits_per_second = _smoothed(
                known.up_bits_per_second, transfer_bytes, duration_us
            )

    def on_sent(self, peer: PeerId, transfer_bytes: int, duration_us: int) -> None:
        """Note a blob that `peer` took from us. Under 64 KiB it is ignored."""
        if transfer_bytes >= TRANSFER_BYTES_MIN:
            known = self._touched(peer)
            known.down_bits_per_second = _smoothed(
                known.down_bits_per_second, transfer_bytes, duration_us
            )

    def on_success(self, peer: PeerId, *, task_kind: str = ANY_KIND, count: int = 1) -> None:
        """Note that `peer` kept a lease, whatever the program's own end was."""
        self._add(peer, task_kind, Counts(valid_count=count)).errors_in_a_row_count = 0

    def on_device_failure(self, peer: PeerId, *, task_kind: str = ANY_KIND) -> None:
        """Note that `peer` itself failed a lease."""
        known = self._add(peer, task_kind, Counts(failed_count=1))
        known.errors_in_a_row_count = min(known.errors_in_a_row_count + 1, COUNT_MAX)

    def on_valid_in_a_row(self, peer: PeerId, count: int) -> None:
        """Note how many results of `peer` in a row stand now, as spot checks count them."""
        self._touched(peer).valid_in_a_row_count = min(count, COUNT_MAX)

    def valid_in_a_row(self, peer: PeerId) -> int:
        """Return how many that are."""
        known = self._peers.get(peer)
        return 0 if known is None else known.valid_in_a_row_count

    def on_dispute(self, peer: PeerId, *, task_kind: str = ANY_KIND) -> None:
        """Note that `peer` was on the losing side of a dispute."""
        self._add(peer, task_kind, Counts(disputed_count=1))

    def outcomes_of(self, peer: PeerId) -> dict[str, Outcomes]:
        """Return how `peer` did here, by kind of task. Only to be read."""
        known = self._peers.get(peer)
        return {} if known is None else known.outcomes

    def remembered(self, peer: PeerId) -> Remembered:
        """Return what this device still remembers of how `peer` did, at tasks of all kinds."""
        total = Remembered()
        for outcomes in self.outcomes_of(peer).values():
            total = total.plus(outcomes.remembered(age_h=self.age_h))
        return total

    def of(self, peer: PeerId) -> Measured:
        """Return what is known about `peer`; nothing, if it was never measured."""
        known = self._peers.get(peer)
        if known is None:
            return Measured()
        total = NO_COUNTS
        for outcomes in known.outcomes.values():
            total = total.plus(outcomes.counts)
        return Measured(
            round_trip_us=_median(known.round_trips_us),
            round_trips_count=len(known.round_trips_us),
            up_bits_per_second=known.up_bits_per_second,
            down_bits_per_second=known.down_bits_per_second,
            successes_count=total.valid_count,
            failures_count=total.failed_count,
            errors_in_a_row_count=known.errors_in_a_row_count,
            valid_in_a_row_count=known.valid_in_a_row_count,
            disputes_count=total.disputed_count,
        )

    def to_record(self, peer: PeerId) -> MeasurementRecord:
        """Return what of `peer` is worth keeping over a restart."""
        measured = self.of(peer)
        return MeasurementRecord(
            peer=peer,
            up_bits_per_second=measured.up_bits_per_second,
            down_bits_per_second=measured.down_bits_per_second,
            errors_in_a_row_count=measured.errors_in_a_row_count,
            valid_in_a_row_count=measured.valid_in_a_row_count,
            outcomes=dict(self.outcomes_of(peer)),
        )

    def from_record(self, record: MeasurementRecord) -> None:
        """Take up a peer where the store left it; round trips start anew."""
        known = self._touched(record.peer)
        known.up_bits_per_second = record.up_bits_per_second
        known.down_bits_per_second = record.down_bits_per_second
        known.errors_in_a_row_count = record.errors_in_a_row_count
        known.valid_in_a_row_count = record.valid_in_a_row_count
        known.outcomes = dict(record.outcomes)

    def peers(self) -> tuple[PeerId, ...]:
        """Return the measured peers, the one measured longest ago first."""
        return tuple(self._peers)

    def _add(self, peer: PeerId, task_kind: str, new: Counts) -> _Peer:
        known = self._touched(peer)
        if task_kind not in known.outcomes and len(known.outcomes) >= KINDS_MAX - 1:
            task_kind = ANY_KIND
        held = known.outcomes.get(task_kind, Outcomes())
        known.outcomes[task_kind] = held.plus(new, age_h=self.age_h)
        return known

    def _touched(self, peer: PeerId) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer()
            if len(self._peers) > self.peers_max:
                self._peers.popitem(last=False)
        self._peers.move_to_end(peer)
        return known


def _smoothed(old: int | None, transfer_bytes: int, duration_us: int) -> int:
    rate = min(transfer_bytes * 8 * 1_000_000 // max(1, duration_us), BITS_PER_SECOND_MAX)
    return rate if old is None else (old * _RATE_MEMORY + rate) // (_RATE_MEMORY + 1)


def _median(round_trips_us: deque[int]) -> int | None:
    if not round_trips_us:
        return None
    ordered = sorted(round_trips_us)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
