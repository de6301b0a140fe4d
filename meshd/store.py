"""What a device promised to remember: rows in SQLite, written by one thread in group commits.

`persist` returns when its rows are on the disk and not before. All rows of one call are there or
none is. A disk that fails once is not trusted again: the store then refuses every write until it
is opened anew, and what was not acknowledged may or may not be there, whole.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio
from msgspec import Struct
from trio import TaskStatus

from meshd.errors import RecordTooLarge, StoreError, StoreFailed
from meshd.store_schema import connect, open_database, roll_back, store_error
from wire.ids import StoreId

COMMIT_CALLS_MAX = 512  # calls that share one commit, and so one wait for the disk
QUEUE_CALLS_MAX = 512  # a full queue makes `persist` wait
KIND_CHARACTERS_MAX = 32
KEY_BYTES_MAX = 256
BODY_BYTES_MAX = 16 << 20
CALL_BYTES_MAX = 64 << 20
LOAD_ROWS_MAX = 1_000
READERS_MAX = 4
CHECKPOINT_TRIES_MAX = 5  # each waits as long as the busy timeout for readers

_PUT = """INSERT INTO records (kind, key, body) VALUES (?, ?, ?)
          ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body"""
_DELETE = "DELETE FROM records WHERE kind = ? AND key = ?"
_ALL = "SELECT key, body FROM records WHERE kind = ? ORDER BY sequence"
_NEWEST = """SELECT sequence, key, body FROM records
             WHERE kind = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?"""
_NEWEST_OF_PREFIX = """SELECT sequence, key, body FROM records INDEXED BY records_by_key
                       WHERE kind = ? AND key >= ? AND key < ? AND sequence < ?
                       ORDER BY sequence DESC LIMIT ?"""
_SEQUENCE_MAX = (1 << 63) - 1


class Write(Struct, frozen=True):
    """One row to write: `body` replaces what is under (kind, key), None deletes it."""

    kind: str
    key: bytes
    body: bytes | None


class Row(Struct, frozen=True):
    """One row as it was read. `sequence` grows with every new row and survives updates."""

    sequence: int
    key: bytes
    body: bytes


@dataclass(slots=True, eq=False)
class _Call:
    """One `persist` that waits for its commit."""

    writes: tuple[Write, ...]
    size_bytes: int
    done: trio.Event = field(default_factory=trio.Event)
    error: StoreError | None = None

    def finish(self, error: StoreError | None) -> None:
        self.error = error
        self.done.set()


class Store:
    """The database of one home. `open` it, keep `run` running, `close` it after `run` has ended."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, store_id: StoreId, changes: list[str]
    ) -> None:
        self.path = path
        self.store_id = store_id
        self.changes = tuple(changes)
        self.commits_count = 0
        self.rows_count = 0
        self._connection = connection
        self._failure: StoreError | None = None
        self._send, self._receive = trio.open_memory_channel[_Call](QUEUE_CALLS_MAX)
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READERS_MAX)
        self._idle_readers: list[sqlite3.Connection] = []

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the database at `path`, made if missing, checked and brought up to date.

        `changes` then names what voided the old store id (`inode`, ...), empty when it stands.
        Blocks for the integrity check. Raises StoreCorrupt, StoreTooNew, StoreFailed.
        """
        connection, store_id, changes = open_database(path)
        return cls(path, connection, store_id, changes)

    def close(self) -> None:
        """Close all connections."""
        self._send.close()
        for reader in self._idle_readers:
            reader.close()
        self._idle_readers.clear()
        self._connection.close()

    @property
    def waiting_count(self) -> int:
        """How many calls wait for their commit, without those being committed now."""
        return self._receive.statistics().current_buffer_used

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what `persist` is given, until cancelled or until the disk fails.

        Returns after a failure, of which each waiting call is told. A commit that has begun is
        finished and acknowledged even when cancelled.
        """
        calls: list[_Call] = []
        try:
            task_status.started()
            async for first in self._receive:
                calls = self._gather(first)
                await self._commit_in_thread(calls)
                calls = []
                if self._failure is not None:
                    return
        finally:
            self._failure = self._failure or self._closed()
            for call in (*calls, *self._drain()):
                call.finish(self._failure)
            self._receive.close()

    async def persist(self, writes: Sequence[Write]) -> None:
        """Write all of `writes`, in order, or none; return when they are durable.

        Calls commit in the order they were made. If cancelled while waiting, the rows may or may
        not be written. Raises StoreFailed (promise nothing, restart from disk), or RecordTooLarge.
        """
        call = _Call(tuple(writes), _checked_size(writes))
        try:
            await self._send.send(call)  # broken once `run` has ended, for whatever reason
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StoreFailed(str(self._failure or self._closed())) from error
        await call.done.wait()
        if call.error is not None:
            raise StoreFailed(str(call.error)) from call.error

    async def overwrite(self, write: Write) -> None:
        """Write one row so that no copy of what it held before stays in the files.

        Freed bytes are zeroed and the write-ahead log is emptied. Raises StoreFailed.
        """
        _checked_size([write])
        try:
            await trio.to_thread.run_sync(self._overwrite, write, limiter=self._writer)
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    def load_all(self, kinds: Sequence[str]) -> dict[str, list[tuple[bytes, bytes]]]:
        """Return key and body of every row of `kinds`, in order of insertion.

        For the start, before `run`: it blocks. Raises StoreFailed or StoreCorrupt.
        """
        try:
            return {kind: self._connection.execute(_ALL, (kind,)).fetchall() for kind in kinds}
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    async def load(
        self, kind: str, *, prefix: bytes = b"", before: int | None = None, limit: int = 100
    ) -> list[Row]:
        """Return at most `limit` (1,000) rows whose key starts with `prefix`, newest first.

        `before` is the sequence of the last row of the page before. What `persist` has returned
        for is seen. Raises StoreFailed or StoreCorrupt.
        """
        before = _SEQUENCE_MAX if before is None else before
        limit = max(0, min(limit, LOAD_ROWS_MAX))
        if prefix:
            arguments = (kind, prefix, _end_of(prefix), before, limit)
            read = functools.partial(self._read, _NEWEST_OF_PREFIX, arguments)
        else:
            read = functools.partial(self._read, _NEWEST, (kind, before, limit))
        return await trio.to_thread.run_sync(read, limiter=self._readers)

    def _read(self, sql: str, arguments: tuple[str | bytes | int, ...]) -> list[Row]:
        reader = None
        try:
            reader = self._idle_readers.pop() if self._idle_readers else connect(self.path)
            rows = [Row(*row) for row in reader.execute(sql, arguments)]
        except sqlite3.Error as error:
            if reader is not None:
                reader.close()
            raise store_error(self.path, error) from error
        self._idle_readers.append(reader)
        return rows

    def _gather(self, first: _Call) -> list[_Call]:
        """Return `first` and what else waits, as much as one commit takes."""
        calls, size_bytes = [first], first.size_bytes
        while len(calls) < COMMIT_CALLS_MAX and size_bytes < CALL_BYTES_MAX:
            try:
                calls.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            size_bytes += calls[-1].size_bytes
        return calls

    def _drain(self) -> list[_Call]:
        """Return all that waits, including senders for whom the queue was full."""
        calls = []
        while True:
            try:
                calls.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return calls

    async def _commit_in_thread(self, calls: list[_Call]) -> None:
        try:
            await trio.to_thread.run_sync(self._commit, calls, limiter=self._writer)
        except sqlite3.Error as error:
            self._failure = store_error(self.path, error)
        else:
            self.commits_count += 1
        for call in calls:
            call.finish(self._failure)

    def _commit(self, calls: list[_Call]) -> None:
        """Write all calls in one transaction.

        No savepoint for each: rows are checked before they are queued, so what fails here is the
        disk, and then nothing of this commit may be promised.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for call in calls:
                for write in call.writes:
                    if write.body is None:
                        self._connection.execute(_DELETE, (write.kind, write.key))
                    else:
                        self._connection.execute(_PUT, (write.kind, write.key, write.body))
            self._connection.execute("COMMIT")
        except BaseException:
            roll_back(self._connection)
            raise
        self.rows_count += sum(len(call.writes) for call in calls)

    def _overwrite(self, write: Write) -> None:
        self._connection.execute("PRAGMA secure_delete = ON")
        try:
            self._commit([_Call((write,), 0)])
            for _ in range(CHECKPOINT_TRIES_MAX):
                is_busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not is_busy:
                    return
            raise sqlite3.OperationalError("a reader keeps the write-ahead log from being emptied")
        finally:
            self._connection.execute("PRAGMA secure_delete = FAST")

    def _closed(self) -> StoreFailed:
        return StoreFailed(f"{self.path} is closed: nothing was written")


def _checked_size(writes: Sequence[Write]) -> int:
    """Return the bytes of `writes`. Raises RecordTooLarge."""
    total_bytes = 0
    for write in writes:
        body_bytes = len(write.body or b"")
        if (
            not 0 < len(write.kind) <= KIND_CHARACTERS_MAX
            or len(write.key) > KEY_BYTES_MAX
            or body_bytes > BODY_BYTES_MAX
        ):
            raise RecordTooLarge(
                f"row {write.kind[:KIND_CHARACTERS_MAX]!r} with a key of {len(write.key)}"
                f" and a body of {body_bytes} bytes"
            )
        total_bytes += len(write.key) + body_bytes
    if total_bytes > CALL_BYTES_MAX:
        raise RecordTooLarge(f"{total_bytes} bytes in one call")
    return total_bytes


def _end_of(prefix: bytes) -> bytes:
    """Return a key that comes after all keys that start with `prefix`, and before all others."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\xff" * (KEY_BYTES_MAX + 1)
