"""What a crash leaves of a simulated disk."""

from __future__ import annotations

import itertools

import pytest
from msgspec import Struct

from simulations.disk import Disk, DiskFate, RowForm
from wire.effects import Row
from wire.ids import StoreId


class Note(Struct, frozen=True):
    text: str


def row(key: bytes, text: str | None) -> Row:
    return Row("note", key, None if text is None else Note(text))


def disk() -> Disk:
    numbers = itertools.count()
    return Disk(lambda: StoreId(next(numbers).to_bytes(16, "big")), RowForm())


def keys(of: Disk) -> list[bytes]:
    return [one.key for one in of.rows()]


def test_rows_are_given_back_in_the_order_they_were_first_written() -> None:
    written = disk()
    for rows in ([row(b"a", "1")], [row(b"b", "1")], [row(b"a", "2")]):
        written.write(rows)
        written.sync_next()
    assert keys(written) == [b"a", b"b"]
    assert written.rows()[0].value == Note("2")
    written.write([row(b"a", None)])
    written.sync_next()
    written.write([row(b"a", "3")])
    written.sync_next()
    assert keys(written) == [b"b", b"a"]


def test_loading_gives_the_newest_of_a_kind_and_prefix() -> None:
    written = disk()
    written.write(
        [row(b"x1", "1"), row(b"y1", "2"), row(b"x2", "3"), Row("other", b"x3", Note(""))]
    )
    written.sync_next()
    assert [one.key for one in written.load("note", b"x", 5)] == [b"x2", b"x1"]
    assert [one.key for one in written.load("note", b"", 1)] == [b"x2"]


@pytest.mark.parametrize(
    ("fate", "kept"),
    [
        (DiskFate.KEEP, [b"synced", b"unsynced"]),
        (DiskFate.LOSE_UNSYNCED, [b"synced"]),
        (DiskFate.LOSE_ALL, []),
    ],
)
def test_a_crash_keeps_what_its_fate_says(fate: DiskFate, kept: list[bytes]) -> None:
    written = disk()
    written.write([row(b"synced", "")])
    written.sync_next()
    written.write([row(b"unsynced", "")])
    store = written.store
    written.crash(fate)
    assert keys(written) == kept
    assert written.unsynced_count == 0
    assert (written.store != store) == (fate is DiskFate.LOSE_ALL)


def test_rows_of_one_write_are_durable_together_and_whoever_watches_is_told() -> None:
    written, durable = disk(), list[bytes]()
    written.on_durable = lambda one: durable.append(one.key)
    written.write([row(b"a", ""), row(b"b", "")])
    assert durable == []
    written.sync_next()
    assert durable == [b"a", b"b"]
