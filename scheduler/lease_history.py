"""What becomes of every lease that a steward gives: kept for as long as its batch is.

One row a batch and device. A device that gets a task of the batch again goes on in the row that it
has: the row is active while the device holds a lease. Nothing is promised on these rows, so nothing
waits for them: the end of a lease may be on disk only with the next one, or with the last outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from wire.effects import Effect, Persist, Row
from wire.ids import BatchId, PeerId
from wire.messages import LeaseRef
from wire.tasks import Epoch

LEASE_ROW = "lease"
SPANS_MAX = 64
REASON_CHARACTERS_MAX = 128
DONE = "its tasks are done"
RESTARTED = "its steward restarted"


class LeaseSpan(Struct, frozen=True, kw_only=True):
    """One lease. Wall times are 0 where the time was not known; `ended` is "" while it is out."""

    epoch: Epoch
    attempt: int
    indices: tuple[int, ...]
    granted_wall_us: int
    ended_wall_us: int = 0
    ended: str = ""


class LeaseRow(Struct, frozen=True, kw_only=True):
    """All leases of one batch to one device: the latest, and how many there were before."""

    spans: tuple[LeaseSpan, ...]
    earlier_count: int = 0

    @property
    def is_active(self) -> bool:
        """Whether the device holds a lease of the batch."""
        return any(not span.ended for span in self.spans)


@dataclass(slots=True)
class LeaseHistory:
    """The rows of one batch. Those of a batch that is decided are on disk alone."""

    _rows: dict[PeerId, LeaseRow] = field(default_factory=dict)
    _keys: set[PeerId] = field(default_factory=set)
    _unwritten: set[PeerId] = field(default_factory=set)

    def row_of(self, executor: PeerId) -> LeaseRow | None:
        """Return what is in memory of a device's leases."""
        return self._rows.get(executor)

    def on_restarted(self, executor: PeerId, row: LeaseRow, *, is_decided: bool) -> None:
        """Take up a row. How a lease that was out then ended cannot be told from here."""
        self._keys.add(executor)
        if is_decided:
            return
        spans = [span if span.ended else replace(span, ended=RESTARTED) for span in row.spans]
        self._rows[executor] = replace(row, spans=tuple(spans))

    def on_granted(
        self, ref: LeaseRef, executor: PeerId, indices: tuple[int, ...], *, wall_us: int
    ) -> None:
        """Go on in the device's row, or begin one."""
        span = LeaseSpan(
            epoch=ref.epoch, attempt=ref.attempt, indices=indices, granted_wall_us=wall_us
        )
        row = self._rows.get(executor, LeaseRow(spans=()))
        spans = (*row.spans, span)
        left_out_count = max(0, len(spans) - SPANS_MAX)
        self._rows[executor] = LeaseRow(
            spans=spans[left_out_count:], earlier_count=row.earlier_count + left_out_count
        )
        self._keys.add(executor)
        self._unwritten.add(executor)

    def on_over(self, ref: LeaseRef, executor: PeerId, reason: str, *, wall_us: int) -> None:
        """Note how a lease ended."""
        row = self._rows.get(executor)
        if row is None:
            return
        name = ref.epoch, ref.attempt
        ended = reason[:REASON_CHARACTERS_MAX] or DONE
        spans = [
            replace(span, ended_wall_us=wall_us, ended=ended)
            if (span.epoch, span.attempt) == name and not span.ended
            else span
            for span in row.spans
        ]
        self._rows[executor] = replace(row, spans=tuple(spans))
        self._unwritten.add(executor)

    def written(self, batch: BatchId) -> list[Effect]:
        """Return the effect that writes what has changed."""
        if not self._unwritten:
            return []
        rows = [Row(LEASE_ROW, batch + one, self._rows[one]) for one in sorted(self._unwritten)]
        self._unwritten.clear()
        return [Persist(tuple(rows))]

    def shelved(self, batch: BatchId) -> list[Effect]:
        """The batch is decided: return the effect that writes what has changed, and forget it."""
        effects = self.written(batch)
        self._rows.clear()
        return effects

    def erased(self, batch: BatchId) -> Iterable[Row]:
        """The batch is forgotten: return what erases its rows."""
        return [Row(LEASE_ROW, batch + executor, None) for executor in sorted(self._keys)]
