"""What happened to tasks on this device, as steward and as executor: kept on disk, bounded.

Events of one kind within a second are one event of many tasks. Nothing depends on a history, so
nothing waits for it: a crash may lose the last second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from scheduler.batch import Batch
from scheduler.states import TaskState
from wire.effects import Effect, Persist, Row, SetTimer
from wire.ids import BATCH_ID_BYTES, BatchId, PeerId

HISTORY_ROW = "history"
FLUSH_US = 1_000_000
ROW_EVENTS_MAX = 64
BATCH_EVENTS_MAX = 512
ROWS_MAX = 4_096  # of the device; the oldest make room
OPEN_BATCHES_MAX = 256
DETAIL_CHARACTERS_MAX = 128

# How a task ended is kept beyond the bound of its batch.
_ENDS = frozenset({TaskState.SETTLED, TaskState.COMPLETE, TaskState.CANCELLED, TaskState.FAILED})


class HistoryEvent(Struct, frozen=True, array_like=True):
    """Something that happened to tasks of a batch. `wall_us` is 0 where the time was not known."""

    wall_us: int
    kind: str
    indices: tuple[int, ...]
    peer: PeerId | None = None
    detail: str = ""


class HistoryRow(Struct, frozen=True, kw_only=True):
    """Some events of a batch, in order; how many before them were too many to be kept."""

    events: tuple[HistoryEvent, ...]
    dropped_count: int = 0


@dataclass(frozen=True, slots=True)
class HistoryDue:
    """Timer: write what happened within the last second."""


@dataclass(slots=True)
class _Open:
    """The row of a batch that events go into."""

    key: bytes
    events: list[HistoryEvent] = field(default_factory=list)
    unwritten_from: int = 0  # those before are on disk, and are not added to
    count: int = 0  # of the batch, since it is open here
    dropped_count: int = 0


@dataclass(slots=True, kw_only=True)
class History:
    """The events of this device."""

    wall_us: Callable[[], int]
    _open: dict[BatchId, _Open] = field(default_factory=dict)
    _keys: dict[bytes, None] = field(default_factory=dict)  # of all rows, the oldest first
    _unwritten: dict[BatchId, None] = field(default_factory=dict)
    _shown: dict[BatchId, list[tuple[TaskState, PeerId | None]]] = field(default_factory=dict)
    _rows_count: int = 0
    _is_due: bool = False

    def on_restarted(self, rows: Iterable[tuple[bytes, HistoryRow]]) -> None:
        """Take up which rows there are."""
        self._keys = dict.fromkeys(sorted((key for key, _ in rows), key=_number_of))
        self._rows_count = max(map(_number_of, self._keys), default=0)

    @property
    def wants_timer(self) -> bool:
        """Whether something is to be written and no timer runs for it."""
        return bool(self._unwritten) and not self._is_due

    def timer(self) -> Effect:
        """Return the timer that it wants."""
        self._is_due = True
        return SetTimer(HistoryDue(), FLUSH_US)

    def knows(self, batch: BatchId) -> bool:
        """Say whether this device had to do with a batch, of late."""
        return batch in self._open

    def note(
        self,
        batch: BatchId,
        kind: str,
        indices: Sequence[int],
        *,
        peer: PeerId | None = None,
        detail: str = "",
    ) -> None:
        """Note what happened to tasks."""
        row = self._row(batch)
        detail = detail[:DETAIL_CHARACTERS_MAX]
        self._unwritten[batch] = None
        for place in range(row.unwritten_from, len(row.events)):
            before = row.events[place]
            if (before.kind, before.peer, before.detail) == (kind, peer, detail):
                together = tuple(dict.fromkeys((*before.indices, *indices)))
                row.events[place] = HistoryEvent(before.wall_us, kind, together, peer, detail)
                return
        if row.count >= BATCH_EVENTS_MAX and kind not in _ENDS:
            row.dropped_count += 1
            return
        row.count += 1
        row.events.append(HistoryEvent(self.wall_us(), kind, tuple(indices), peer, detail))

    def on_changed(self, batch: Batch, indices: Sequence[int]) -> None:
        """Note where tasks of a batch that is kept here have come, if they have moved."""
        shown = self._shown.get(batch.batch)
        if shown is None:
            if batch.is_decided and not indices:
                return
            shown = [(TaskState.PENDING, None)] * len(batch.progress)
            self._shown[batch.batch] = shown
        for index in indices:
            task = batch.progress[index]
            now = (task.state, task.executor)
            if now == shown[index]:
                continue
            shown[index] = now
            detail = task.reason
            if task.decided is not None and task.decided.status is not None:
                code = task.decided.exit_code
                detail = f"{task.decided.status}" + ("" if code is None else f" {code}")
            self.note(batch.batch, str(task.state), (index,), peer=task.executor, detail=detail)
        if batch.is_decided:
            self._shown.pop(batch.batch, None)

    def on_due(self) -> list[Effect]:
        """Write what happened; the oldest rows make room."""
        self._is_due = False
        rows = []
        for batch in self._unwritten:
            opened = self._open[batch]
            value = HistoryRow(events=tuple(opened.events), dropped_count=opened.dropped_count)
            rows.append(Row(HISTORY_ROW, opened.key, value))
            self._keys[opened.key] = None
            opened.unwritten_from = len(opened.events)
        self._unwritten.clear()
        while len(self._keys) > ROWS_MAX:
            oldest = next(iter(self._keys))
            del self._keys[oldest]
            rows.append(Row(HISTORY_ROW, oldest, None))
        return [Persist(tuple(rows))] if rows else []

    def merged(self, batch: BatchId, rows: Sequence[Row]) -> list[HistoryEvent]:
        """Return the events of a batch: those on disk, in `rows`, and those of this second."""
        values = {row.key: row.value for row in rows if isinstance(row.value, HistoryRow)}
        opened = self._open.get(batch)
        if opened is not None:
            events = tuple(opened.events)
            values[opened.key] = HistoryRow(events=events, dropped_count=opened.dropped_count)
        found: list[HistoryEvent] = []
        for key in sorted(values, key=_number_of):
            value = values[key]
            found += value.events
            if value.dropped_count:
                text = f"{value.dropped_count} further events were too many to be kept"
                found.append(HistoryEvent(0, "dropped", (), None, text))
        return found

    def _row(self, batch: BatchId) -> _Open:
        row = self._open.pop(batch, None)
        if row is None or (len(row.events) >= ROW_EVENTS_MAX and batch not in self._unwritten):
            self._rows_count += 1
            count = 0 if row is None else row.count
            row = _Open(batch + self._rows_count.to_bytes(8, "big"), count=count)
        self._open[batch] = row  # the latest is the last
        if len(self._open) > OPEN_BATCHES_MAX:
            idle = next((one for one in self._open if one not in self._unwritten), None)
            if idle is not None and idle != batch:
                del self._open[idle]
        return row


def _number_of(key: bytes) -> int:
    return int.from_bytes(key[BATCH_ID_BYTES:], "big")
