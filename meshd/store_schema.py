"""The database file: opened, checked, brought up to date. Nothing here ever deletes anything.

`records` holds every row of every kind: what a kind means is the cores' affair. A row keeps the
sequence of its first write, so reading by sequence is reading in the order of insertion; sequences
are never used twice. `meta` holds the store id and the file's identity. The schema's version is
SQLite's `user_version`, and upgrades are steps, each applied once and in order, in one transaction.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from meshd.errors import StoreCorrupt, StoreError, StoreFailed, StoreTooNew
from meshd.home import PRIVATE_FILE
from meshd.store_identity import FileIdentity, file_identity
from wire.ids import STORE_ID_BYTES, StoreId

APPLICATION_ID = 0x6D657368  # "mesh": tells our files from other programs'

# A step is the statements that lead from one version to the next. Append only.
Step = Sequence[str]
SCHEMA: tuple[Step, ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID",
        """CREATE TABLE records (
             sequence INTEGER PRIMARY KEY AUTOINCREMENT,
             kind TEXT NOT NULL,
             key BLOB NOT NULL,
             body BLOB NOT NULL
           )""",
        "CREATE UNIQUE INDEX records_by_key ON records (kind, key)",
        "CREATE INDEX records_by_kind ON records (kind, sequence)",
    ),
)

_BUSY_TIMEOUT_S = 5.0
_WAL_BYTES_KEPT = 64 << 20
_CORRUPT_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_TABLES = {"meta", "records"}
_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, then start again",
    sqlite3.SQLITE_READONLY: "it cannot be written: check owner, mode and mount, then start again",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check owner, mode and mount, then start again",
    sqlite3.SQLITE_PERM: "it cannot be opened: check owner, mode and mount, then start again",
    sqlite3.SQLITE_BUSY: "another program has locked it: end that, then start again",
    sqlite3.SQLITE_LOCKED: "another program has locked it: end that, then start again",
    # A quota, and no space for the index that readers share, come as input/output errors too.
    sqlite3.SQLITE_IOERR: "the disk failed or has no room: free some space, see the kernel's log",
}


def open_database(
    path: Path, steps: Sequence[Step] = SCHEMA
) -> tuple[sqlite3.Connection, StoreId, list[str]]:
    """Return a connection for the writer, the store id, and why that id was made anew (or nothing).

    Raises StoreCorrupt, StoreTooNew or StoreFailed; the file is then as it was.
    """
    connection = None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE))
        connection = connect(path)
        _check(connection, path, version_max=len(steps))
        _upgrade(connection, steps)
        store_id, differences = _settle_identity(connection, file_identity(path))
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise store_error(path, error) from error
        if isinstance(error, OSError):
            raise StoreFailed(
                f"{path} cannot be used: {error.strerror}: check owner, mode and mount,"
                " then start again"
            ) from error
        raise
    return connection, store_id, differences


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that any one thread at a time may use. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    # FULL: an acknowledged row survives a power cut (NORMAL may lose the last commits in WAL mode).
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    # What is written over is zeroed where that costs no write: rows hold keys.
    connection.execute("PRAGMA secure_delete = FAST")
    return connection


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Return our error for SQLite's, with what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary part of an extended code
    if code in _CORRUPT_CODES:
        return _corrupt(path, str(error))
    return StoreFailed(f"{path}: {_REASONS.get(code, str(error))}")


def _check(connection: sqlite3.Connection, path: Path, *, version_max: int) -> None:
    """Refuse a file that is damaged, another program's, or a newer meshd's, before any change."""
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if application != APPLICATION_ID and (tables or application or version):
        raise StoreCorrupt(
            f"{path} is a database of another program: move it away, or choose another --home"
        )
    if version > version_max:
        raise StoreTooNew(
            f"{path} was written by a newer meshd (schema {version}, this one knows up to"
            f" {version_max}): install that version, or choose another --home"
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _corrupt(path, " ".join(str(verdict).split()))
    if version and not tables >= _TABLES:
        raise _corrupt(path, f"no table {' '.join(sorted(_TABLES - tables))}")


def _upgrade(connection: sqlite3.Connection, steps: Sequence[Step]) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreFailed(
            "this file system cannot share memory, which the database needs:"
            " choose a --home on a local disk"
        )
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    version = _pragma(connection, "user_version")
    if version == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in steps[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def _settle_identity(
    connection: sqlite3.Connection, identity: FileIdentity
) -> tuple[StoreId, list[str]]:
    """Return the store id, made anew if this is not the file that recorded it, and what differs."""
    meta: dict[str, bytes] = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    is_new = "store_id" not in meta
    differences = [] if is_new else identity.differences(meta.get("file", b""))
    if not is_new and not differences:
        return StoreId(meta["store_id"]), []
    store_id = StoreId(os.urandom(STORE_ID_BYTES))
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(
            "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
            [("store_id", store_id), ("file", identity.to_bytes())],
        )
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return store_id, differences


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo the open transaction; SQLite has already done so after some errors."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _corrupt(path: Path, detail: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"{path} is damaged ({detail}): restore the home from a backup,"
        f" or move {path.name}, {path.name}-wal and {path.name}-shm away to start without its tasks"
        " and its mesh, which needs an invitation then"
    )
