"""A simulated disk: what a node persisted, and what a crash leaves of it.

Rows written are not durable until the disk is synced; whatever waits for them waits for the sync. A
crash between the two keeps them (the process died, the kernel wrote them out), loses them (the
power failed), or loses the whole disk: then the store is another one, with another id.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence

from wire.effects import Row
from wire.ids import StoreId


class DiskFate(enum.StrEnum):
    """What a crash leaves on the disk."""

    KEEP = "keep"
    LOSE_UNSYNCED = "lose_unsynced"
    LOSE_ALL = "lose_all"


class RowForm:
    """How rows are kept on the disk: as they are. Runs that exercise the wire use another form."""

    def freeze(self, row: Row) -> Row:
        """Return what the disk keeps of `row`."""
        return row

    def thaw(self, row: Row) -> Row:
        """Return the row that the disk gives back."""
        return row


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

    def crash(self, fate: DiskFate) -> None:
        """Leave what `fate` leaves."""
        if fate is DiskFate.LOSE_ALL:
            self._durable.clear()
            self.store = self._new_store()
        if fate is DiskFate.KEEP:
            for rows in self._unsynced:
                self._apply(rows)
        self._unsynced.clear()

    def _apply(self, rows: tuple[Row, ...]) -> None:
        for row in rows:
            if row.value is None:
                self._durable.pop((row.kind, row.key), None)
            else:
                self._durable[row.kind, row.key] = row
                self.on_durable(self._form.thaw(row))


def _nothing(_: Row) -> None:
    """Nobody watches what becomes durable."""
