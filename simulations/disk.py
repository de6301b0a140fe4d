"""A simulated disk: what a node persisted, and what a crash leaves of it.

Rows written are not durable until the disk is synced; whatever waits for them waits for the sync. A
crash between the two keeps them (the process died, the kernel wrote them out), loses them or the
last of them (the power failed), or loses the whole disk: then the store is another one, with
another id. Rows of one write are kept or lost together, as the frames of a transaction in SQLite's
write-ahead log are: a torn one does not count.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wire.effects import Row
from wire.ids import StoreId


class DiskFate(enum.StrEnum):
    """What a crash leaves on the disk."""

    KEEP = "keep"
    LOSE_UNSYNCED = "lose_unsynced"
    TORN_TAIL = "torn_tail"  # of what was not synced, the first few writes are left
    LOSE_ALL = "lose_all"


class RowForm:
    """How rows are kept on the disk: as they are. Runs that exercise the wire use another form."""

    def freeze(self, row: Row) -> Row:
        """Return what the disk keeps of `row`."""
        return row

    def thaw(self, row: Row) -> Row:
        """Return the row that the disk gives back."""
        return row


@dataclass(frozen=True, slots=True)
class DiskImage:
    """What was durable at one moment: the store's id and its rows, in order, as they were kept."""

    store: StoreId
    rows: tuple[Row, ...]


class Disk:
    """The store of one device, in the order in which its rows were first written."""

    def __init__(self, new_store: Callable[[], StoreId], form: RowForm) -> None:
        self._new_store = new_store
        self._form = form
        self.store = new_store()
        self.is_full = False
        self.on_durable: Callable[[Row], None] = _nothing
        self.on_written: Callable[[], None] | None = None  # called once, by the next write
        self._durable: dict[tuple[str, bytes], Row] = {}
        self._unsynced: deque[tuple[Row, ...]] = deque()

    @property
    def unsynced_count(self) -> int:
        """How many writes wait for a sync."""
        return len(self._unsynced)

    def write(self, rows: Sequence[Row]) -> None:
        """Take in rows that are lost or kept together."""
        self._unsynced.append(tuple(self._form.freeze(row) for row in rows))
        on_written, self.on_written = self.on_written, None
        if on_written is not None:
            on_written()

    def sync_next(self) -> None:
        """Make the oldest write durable: writes are synced in the order they were made."""
        self._apply(self._unsynced.popleft())

    def rows(self) -> tuple[Row, ...]:
        """Return all durable rows in the order they were first written."""
        return tuple(self._form.thaw(row) for row in self._durable.values())

    def load(self, kind: str, prefix: bytes, limit: int) -> tuple[Row, ...]:
        """Return at most `limit` durable rows whose key begins with `prefix`, newest first."""
        found = (
            row
            for (row_kind, key), row in reversed(self._durable.items())
            if row_kind == kind and key.startswith(prefix)
        )
        return tuple(self._form.thaw(row) for row, _ in zip(found, range(limit), strict=False))

    def crash(self, fate: DiskFate, *, torn_kept_count: int = 0) -> None:
        """Leave what `fate` leaves: of a torn tail the first `torn_kept_count` writes."""
        if fate is DiskFate.LOSE_ALL:
            self._durable.clear()
            self.store = self._new_store()
        kept_count = {DiskFate.KEEP: self.unsynced_count, DiskFate.TORN_TAIL: torn_kept_count}
        for _ in range(min(self.unsynced_count, kept_count.get(fate, 0))):
            self.sync_next()
        self._unsynced.clear()

    # Backups.

    def snapshot(self) -> DiskImage:
        """Return what is durable now, as a consistent copy of the database has it."""
        return DiskImage(self.store, tuple(self._durable.values()))

    def restore(self, image: DiskImage, *, is_block_level: bool) -> None:
        """Bring back what was durable once, and forget everything since.

        A copy of the file is another file, so the store gets another id and the device votes on
        nothing that the old one was named for (`meshd.store_identity`). A rollback below the file
        system, of a virtual machine's disk say, leaves no such trace: the id comes back too, and
        with it the right to vote again on what was voted on already. Raises ValueError while
        writes wait: a process still has the file open.
        """
        if self._unsynced:
            raise ValueError(f"{self.unsynced_count} writes wait: the process has not ended")
        self.store = image.store if is_block_level else self._new_store()
        self._durable.clear()
        self._apply(image.rows)

    def _apply(self, rows: tuple[Row, ...]) -> None:
        for row in rows:
            if row.value is None:
                self._durable.pop((row.kind, row.key), None)
            else:
                self._durable[row.kind, row.key] = row
                self.on_durable(self._form.thaw(row))


def _nothing(_: Row) -> None:
    """Nobody watches what becomes durable."""
