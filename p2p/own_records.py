"""What this device says: presence, capabilities, telemetry and more, each signed and numbered.

The incarnation (Das et al. 2002, *SWIM*, section 4.2) rises with every start and is durable before
anything is signed under it. A device that hears a higher one of its own lost its disk, or was
restored from an old copy: it goes one higher still, so that nobody can roll its state back. Two
devices that run with one key outbid each other so for ever, but not more often than every ten
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from p2p.directory import Chain, Directory
from telemetry.publication import Published, is_publication_due
from telemetry.sample import Sample
from wire.effects import Effect, Persist, Row, SetTimer, Trace
from wire.ids import PeerId
from wire.records import Capabilities, Observations, Presence, Record, RecordKind, Watch
from wire.signed import Signed, Signer, encode_body, sign

INCARNATION_ROW = "incarnation"
INCARNATION_MAX = (1 << 63) - 1
RAISE_EVERY_US = 10_000_000
_KEY = b"own"


class IncarnationRow(Struct, frozen=True, kw_only=True):
    """The highest incarnation under which this device may have signed."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class IncarnationDurable:
    """Timer of no delay: records may be signed under this incarnation."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class RaiseDue:
    """Timer: go above what was heard meanwhile."""


@dataclass(slots=True, kw_only=True)
class OwnRecords:
    """Signs this device's records into its own directory; the caller spreads them."""

    signer: Signer
    chain: Chain
    directory: Directory
    capabilities: tuple[str, ...]
    presence: Presence
    incarnation: int = 0
    sample: Sample = field(default_factory=Sample)
    watch: Watch | None = None
    observations: Observations | None = None
    _signing: int = 0  # the incarnation that is durable, 0 before the first
    _counter: int = 0
    _heard: int = 0
    _raised_us: int | None = None
    _published: Published | None = None

    def on_restarted(self, rows: list[IncarnationRow]) -> list[Effect]:
        """Begin a new incarnation."""
        highest = max((row.incarnation for row in rows), default=0)
        return self._begin(highest + 1)

    def on_incarnation_durable(
        self, durable: IncarnationDurable, *, now_us: int
    ) -> tuple[Signed[Record], ...]:
        """Sign everything anew; return the records to spread."""
        if durable.incarnation != self.incarnation:
            return ()  # a higher one is on its way
        self._signing = durable.incarnation
        records = [
            self._record(RecordKind.PRESENCE, encode_body(self.presence), now_us),
            self._record(
                RecordKind.CAPABILITIES,
                encode_body(Capabilities(keys=self.capabilities)),
                now_us,
            ),
        ]
        if self.watch is not None:
            records.append(self._record(RecordKind.WATCH, encode_body(self.watch), now_us))
        if self.observations is not None:
            body = encode_body(self.observations)
            records.append(self._record(RecordKind.OBSERVATIONS, body, now_us))
        if self._published is not None:
            records.append(self._record(RecordKind.TELEMETRY, encode_body(self.sample), now_us))
        return tuple(records)

    def on_own_record_heard(self, record: Record, *, now_us: int) -> list[Effect]:
        """Somebody holds a word of ours that we do not know: go above it."""
        counter = self._counter if self._is_durable else 0
        if (record.incarnation, record.counter) <= (self.incarnation, counter):
            return []
        self._heard = max(self._heard, record.incarnation)
        if self._raised_us is not None and now_us < self._raised_us + RAISE_EVERY_US:
            return [SetTimer(RaiseDue(), self._raised_us + RAISE_EVERY_US - now_us)]
        return self.on_raise_due(now_us=now_us)

    def on_raise_due(self, *, now_us: int) -> list[Effect]:
        """Go above the highest incarnation of ours that was heard."""
        if self._heard < self.incarnation:
            return []
        self._raised_us = now_us
        trace = Trace("incarnation.raised", {"heard": self._heard, "own": self.incarnation})
        return [trace, *self._begin(self._heard + 1)]

    def on_addresses(
        self, addresses: tuple[str, ...], *, now_us: int
    ) -> tuple[Signed[Record], ...]:
        """The device listens elsewhere now."""
        if addresses == self.presence.addresses:
            return ()
        self.presence = msgspec.structs.replace(self.presence, addresses=addresses)
        return self._presence_again(now_us)

    def on_stopping(self, *, now_us: int) -> tuple[Signed[Record], ...]:
        """Say goodbye."""
        self.presence = msgspec.structs.replace(self.presence, has_left=True)
        return self._presence_again(now_us)

    def on_sample(
        self, sample: Sample, *, members_count: int, now_us: int
    ) -> tuple[Signed[Record], ...]:
        """Sign a new sample if it says something new."""
        self.sample = sample
        if not self._is_durable or not is_publication_due(
            self._published, sample, members_count=members_count, now_us=now_us
        ):
            return ()
        return (self.telemetry(sample, now_us=now_us),)

    def on_watch(self, watch: Watch, *, now_us: int) -> tuple[Signed[Record], ...]:
        """Say who observes this device and whom it does not hear: later, if nothing is durable."""
        self.watch = watch
        if not self._is_durable:
            return ()
        return (self._record(RecordKind.WATCH, encode_body(watch), now_us),)

    def on_observations(
        self, observations: Observations, *, now_us: int
    ) -> tuple[Signed[Record], ...]:
        """Say how others did: later, if nothing is durable."""
        self.observations = observations
        if not self._is_durable:
            return ()
        body = encode_body(observations)
        return (self._record(RecordKind.OBSERVATIONS, body, now_us),)

    def telemetry(self, sample: Sample, *, now_us: int) -> Signed[Record]:
        """Return `sample` signed, as the newest telemetry of this device.

        While a new incarnation is not durable it is signed under the one before it. Before the
        first that is 0, which tells its receiver but outranks nothing that was ever said.
        """
        self.sample = sample
        self._published = Published(sample=sample, at_us=now_us)
        return self._record(RecordKind.TELEMETRY, encode_body(sample), now_us)

    def _presence_again(self, now_us: int) -> tuple[Signed[Record], ...]:
        if not self._is_durable:
            return ()
        return (self._record(RecordKind.PRESENCE, encode_body(self.presence), now_us),)

    def _begin(self, incarnation: int) -> list[Effect]:
        self.incarnation = min(incarnation, INCARNATION_MAX)
        row = Row(INCARNATION_ROW, _KEY, IncarnationRow(incarnation=self.incarnation))
        return [Persist((row,), (SetTimer(IncarnationDurable(self.incarnation), 0),))]

    def _record(self, kind: RecordKind, body: bytes, now_us: int) -> Signed[Record]:
        self._counter += 1
        signed = sign(
            Record(
                owner=self._own,
                kind=str(kind),
                incarnation=self._signing,
                counter=self._counter,
                body=body,
            ),
            self.signer,
        )
        self.directory.merge(signed, self.chain, now_us=now_us)
        return signed

    @property
    def _is_durable(self) -> bool:
        return self._signing == self.incarnation

    @property
    def _own(self) -> PeerId:
        return self.signer.peer
