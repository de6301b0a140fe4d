"""What a crash leaves of a simulated disk."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Struct

from simulations.disk import Disk, DiskFate, DiskImage, RowForm
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


@pytest.mark.parametrize("kept_count", [0, 1, 2, 5])
def test_of_a_torn_tail_the_first_writes_are_left_each_whole(kept_count: int) -> None:
    written = disk()
    writes = [[row(b"a", "1"), row(b"b", "1")], [row(b"a", None)], [row(b"c", "1")]]
    for rows in writes:
        written.write(rows)
    store = written.store
    written.crash(DiskFate.TORN_TAIL, torn_kept_count=kept_count)
    left = {0: [], 1: [b"a", b"b"], 2: [b"b"]}.get(kept_count, [b"b", b"c"])
    assert keys(written) == left
    assert written.store == store


def test_a_restored_copy_is_another_store_and_a_rolled_back_disk_the_same_one() -> None:
    written, durable = disk(), list[bytes]()
    written.write([row(b"a", "1")])
    written.sync_next()
    image, store = written.snapshot(), written.store
    written.write([row(b"b", "1"), row(b"a", "2")])
    with pytest.raises(ValueError, match="1 writes wait"):
        written.restore(image, is_block_level=False)
    written.sync_next()
    written.on_durable = lambda one: durable.append(one.key)
    written.restore(image, is_block_level=True)
    assert (written.store, written.rows()) == (store, (row(b"a", "1"),))
    written.restore(image, is_block_level=False)
    assert written.rows() == (row(b"a", "1"),)
    assert written.store != store
    assert durable == [b"a", b"a"]


@dataclass
class Model:
    """What a disk must hold, in the plainest way: the whole of it after each write."""

    store: StoreId
    after: list[dict[bytes, str]] = field(default_factory=lambda: [{}])  # first: what is durable

    def write(self, rows: list[tuple[bytes, str | None]]) -> None:
        whole = dict(self.after[-1])
        for key, text in rows:
            if text is None:
                whole.pop(key, None)
            else:
                whole[key] = text
        self.after.append(whole)


class DiskAgainstModel(RuleBasedStateMachine):
    """Whatever is written, synced, lost and restored, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = disk()
        self.model = Model(self.disk.store)
        self.stores = [self.disk.store]
        self.images: list[tuple[DiskImage, dict[bytes, str], StoreId]] = []

    @rule(
        rows=st.lists(
            st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.none() | st.text(max_size=2)),
            max_size=4,
        )
    )
    def write(self, rows: list[tuple[bytes, str | None]]) -> None:
        self.disk.write([row(key, text) for key, text in rows])
        self.model.write(rows)

    @precondition(lambda self: self.disk.unsynced_count)
    @rule()
    def sync(self) -> None:
        self.disk.sync_next()
        self.model.after.pop(0)

    @rule(fate=st.sampled_from(DiskFate), kept_count=st.integers(0, 5))
    def crash(self, fate: DiskFate, kept_count: int) -> None:
        waiting_count = len(self.model.after) - 1
        left = {
            DiskFate.KEEP: self.model.after[-1],
            DiskFate.LOSE_UNSYNCED: self.model.after[0],
            DiskFate.TORN_TAIL: self.model.after[min(kept_count, waiting_count)],
            DiskFate.LOSE_ALL: {},
        }
        self.model.after = [left[fate]]
        self.disk.crash(fate, torn_kept_count=kept_count)
        if fate is DiskFate.LOSE_ALL:
            self.expect_another_store()

    @rule()
    def snapshot(self) -> None:
        self.images.append((self.disk.snapshot(), self.model.after[0], self.disk.store))

    @precondition(lambda self: self.images and not self.disk.unsynced_count)
    @rule(which=st.integers(0, 10), is_block_level=st.booleans())
    def restore(self, which: int, *, is_block_level: bool) -> None:
        image, rows, store = self.images[which % len(self.images)]
        self.disk.restore(image, is_block_level=is_block_level)
        self.model.after = [rows]
        if is_block_level:
            self.model.store = store
        else:
            self.expect_another_store()

    def expect_another_store(self) -> None:
        assert self.disk.store not in self.stores
        self.stores.append(self.disk.store)
        self.model.store = self.disk.store

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        held = {one.key: one.value for one in self.disk.rows()}
        assert held == {key: Note(text) for key, text in self.model.after[0].items()}
        assert [one.key for one in self.disk.rows()] == list(self.model.after[0])
        assert self.disk.store == self.model.store
        assert self.disk.unsynced_count == len(self.model.after) - 1


TestDiskAgainstModel = DiskAgainstModel.TestCase
