"""Carries out `Persist`: rows to the store in order, and what waits for them back when durable.

Everything that waits is written in one call, so that one wait for the disk serves it all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import structlog
import trio

from meshd.errors import StoreError
from meshd.node import ROW_KINDS
from meshd.store import Store, Write
from wire.codec import Decoder
from wire.effects import Effect, Persist, Row
from wire.errors import MalformedFrame
from wire.signed import Verifier, encode_body

CALL_ROWS_MAX = 4_096
CALL_BYTES_ENOUGH = 16 << 20

log = structlog.get_logger()


class Writer:
    """Writes the node's rows. `waiting_rows_count` tells how far the disk is behind."""

    def __init__(
        self,
        store: Store,
        *,
        on_durable: Callable[[tuple[Effect, ...]], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._waiting: deque[Persist] = deque()
        self._something = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self.waiting_rows_count = 0

    def put(self, persist: Persist) -> None:
        """Write `persist` after all that was put before."""
        self._waiting.append(persist)
        self.waiting_rows_count += len(persist.rows)
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._something.set()

    async def run(self) -> None:
        """Write until cancelled or until the disk fails, which `on_failed` hears once."""
        while True:
            await self._something.wait()
            self._something = trio.Event()
            while self._waiting:
                call, writes = self._gather()
                try:
                    await self._store.persist(writes)
                except StoreError as error:
                    self._on_failed(str(error))
                    return
                self.waiting_rows_count -= len(writes)
                for persist in call:
                    self._on_durable(persist.then)
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return when everything that was put is durable."""
        await self._idle.wait()

    def _gather(self) -> tuple[list[Persist], list[Write]]:
        """Return what waits, as much as one call may hold, and its rows as bytes."""
        call: list[Persist] = []
        writes: list[Write] = []
        size_bytes = 0
        while self._waiting and len(writes) < CALL_ROWS_MAX:
            fresh = [_write_of(row) for row in self._waiting[0].rows]
            fresh_bytes = sum(len(write.body or b"") for write in fresh)
            if call and size_bytes + fresh_bytes > CALL_BYTES_ENOUGH:
                break  # together they might be more than the store takes in one call
            call.append(self._waiting.popleft())
            size_bytes += fresh_bytes
            writes += fresh
        return call, writes


class RowReader:
    """Turns stored bodies into the structs that the node wrote.

    A row that does not decode is left out and told of: one damaged row must not keep a device off.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._decoders: dict[str, Decoder[msgspec.Struct]] = {
            kind: Decoder(struct, verifier) for kind, struct in ROW_KINDS.items()
        }

    def read(self, kind: str, key: bytes, body: bytes) -> Row | None:
        """Return the row, None if its body is no `kind`."""
        try:
            return Row(kind, key, self._decoders[kind].decode(body))
        except MalformedFrame as error:
            log.error("row.unreadable", kind=kind, key=key.hex(), reason=str(error))
            return None

    def read_all(self, store: Store) -> tuple[Row, ...]:
        """Return all rows of a store that is not running yet, each kind in order of insertion."""
        found = store.load_all(tuple(ROW_KINDS))
        rows = (self.read(kind, key, body) for kind in found for key, body in found[kind])
        return tuple(row for row in rows if row is not None)


def _write_of(row: Row) -> Write:
    body = None if row.value is None else encode_body(row.value)
    return Write(kind=row.kind, key=row.key, body=body)
