"""Rows on their way to the disk and back: what waits for them, and what a bad disk or row does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import trio
from msgspec import Struct
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.errors import StoreFailed
from meshd.store import CALL_BYTES_MAX, Store, Write
from meshd.writer import CALL_BYTES_ENOUGH, CALL_ROWS_MAX, RowReader, Writer
from p2p.own_records import INCARNATION_ROW, IncarnationRow
from wire.effects import Effect, Persist, Row, Trace
from wire.keys import Ed25519Verifier
from wire.signed import encode_body


class Filler(Struct, frozen=True):
    """A row of any size."""

    body: bytes = b""


class SlowStore:
    """A disk whose writes end when the test says so; it keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[list[Write]] = []
        self.error: StoreFailed | None = None
        self._ends, self._end = trio.open_memory_channel[None](100)

    def end_one(self) -> None:
        """Let one write end."""
        self._ends.send_nowait(None)

    async def persist(self, writes: Sequence[Write]) -> None:
        """Wait for the test."""
        self.calls.append([*writes])
        await self._end.receive()
        if self.error is not None:
            raise self.error


@dataclass
class Desk:
    """A writer and what it told."""

    writer: Writer
    durable: list[Effect] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def writing(store: Store | SlowStore) -> AsyncIterator[Desk]:
    writer = Writer(
        cast(Store, store),
        on_durable=lambda then: desk.durable.extend(then),
        on_failed=lambda reason: desk.failures.append(reason),
    )
    desk = Desk(writer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        with trio.fail_after(10):
            yield desk
        nursery.cancel_scope.cancel()


def persist_of(name: str, *values: Struct | None) -> Persist:
    rows = tuple(
        Row(INCARNATION_ROW, f"{name}{number}".encode(), value)
        for number, value in enumerate(values)
    )
    return Persist(rows, (Trace(name, {}),))


def traces(*names: str) -> list[Effect]:
    return [Trace(name, {}) for name in names]


async def test_nothing_is_carried_out_before_its_rows_are_durable(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    async with writing(store) as desk:
        desk.writer.put(persist_of("a", Filler()))
        await wait_all_tasks_blocked()
        desk.writer.put(persist_of("b", Filler()))
        await wait_all_tasks_blocked()
        assert (len(store.calls), desk.durable) == (1, [])
        assert desk.writer.waiting_rows_count == 2
        store.end_one()
        await wait_all_tasks_blocked()
        assert desk.durable == traces("a")
        assert desk.writer.waiting_rows_count == 1
        store.end_one()
        await desk.writer.wait_idle()
        assert desk.durable == traces("a", "b")


async def test_all_that_waits_is_written_in_one_call_in_order(autojump_clock: MockClock) -> None:
    store = SlowStore()
    async with writing(store) as desk:
        for name in "abcd":
            desk.writer.put(persist_of(name, Filler(), None))
        await wait_all_tasks_blocked()
        [call] = store.calls
        assert [write.key for write in call] == [
            f"{name}{number}".encode() for name in "abcd" for number in range(2)
        ]
        assert {write.body for write in call[1::2]} == {None}
        assert call[0].body == encode_body(Filler())
        store.end_one()
        await desk.writer.wait_idle()
        assert desk.durable == traces(*"abcd")


async def test_a_write_without_rows_keeps_its_place_in_line(autojump_clock: MockClock) -> None:
    store = SlowStore()
    async with writing(store) as desk:
        desk.writer.put(persist_of("a", Filler()))
        desk.writer.put(persist_of("nothing"))
        await wait_all_tasks_blocked()
        assert desk.durable == []
        store.end_one()
        await desk.writer.wait_idle()
        assert desk.durable == traces("a", "nothing")


async def test_a_call_holds_no_more_rows_and_bytes_than_the_store_takes(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    large = Filler(bytes(CALL_BYTES_ENOUGH // 4))
    async with writing(store) as desk:
        desk.writer.put(persist_of("small", Filler()))
        desk.writer.put(persist_of("huge", *[large] * 15))  # just what the store takes at once
        desk.writer.put(persist_of("next", Filler()))
        desk.writer.put(persist_of("many", *[Filler()] * CALL_ROWS_MAX))
        desk.writer.put(persist_of("last", Filler()))
        for _ in range(4):
            store.end_one()
        await wait_all_tasks_blocked()
        assert [len(call) for call in store.calls] == [1, 15, 1 + CALL_ROWS_MAX, 1]
        sizes = [sum(len(write.body or b"") for write in call) for call in store.calls]
        assert max(sizes) < CALL_BYTES_MAX
        assert desk.durable == traces("small", "huge", "next", "many", "last")


async def test_a_failed_disk_is_told_once_and_nothing_after_it_is_promised(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    async with writing(store) as desk:
        desk.writer.put(persist_of("good", Filler()))
        await wait_all_tasks_blocked()
        store.end_one()
        await desk.writer.wait_idle()
        store.error = StoreFailed("disk I/O error")
        desk.writer.put(persist_of("bad", Filler()))
        await wait_all_tasks_blocked()
        desk.writer.put(persist_of("later", Filler()))
        store.end_one()
        await wait_all_tasks_blocked()
        desk.writer.put(persist_of("latest", Filler()))
        await wait_all_tasks_blocked()
        assert desk.failures == ["disk I/O error"]
        assert desk.durable == traces("good")
        assert len(store.calls) == 2
        with trio.move_on_after(1) as scope:
            await desk.writer.wait_idle()
        assert scope.cancelled_caught


async def test_idle_is_only_reached_when_everything_that_was_put_is_durable(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    async with writing(store) as desk:
        await desk.writer.wait_idle()  # there was nothing
        desk.writer.put(persist_of("a", Filler()))
        await wait_all_tasks_blocked()
        desk.writer.put(persist_of("b", Filler()))
        store.end_one()
        with trio.move_on_after(1) as scope:
            await desk.writer.wait_idle()
        assert scope.cancelled_caught
        store.end_one()
        await desk.writer.wait_idle()
        assert desk.writer.waiting_rows_count == 0


async def test_what_is_carried_out_may_write_again(autojump_clock: MockClock) -> None:
    store = SlowStore()
    durable: list[tuple[Effect, ...]] = []

    def on_durable(then: tuple[Effect, ...]) -> None:
        durable.append(then)
        if len(durable) == 1:
            writer.put(persist_of("second", Filler()))

    writer = Writer(cast(Store, store), on_durable=on_durable, on_failed=lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        writer.put(persist_of("first", Filler()))
        store.end_one()
        store.end_one()
        with trio.fail_after(1):
            await writer.wait_idle()
        nursery.cancel_scope.cancel()
    assert durable == [tuple(traces("first")), tuple(traces("second"))]


async def test_rows_come_back_from_a_real_disk_in_the_order_they_were_first_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "meshd.db"
    store = Store.open(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        async with writing(store) as desk:
            for number in range(200):
                row = Row(INCARNATION_ROW, bytes([number]), IncarnationRow(incarnation=number + 1))
                desk.writer.put(Persist((row,)))
            updated = Row(INCARNATION_ROW, bytes([0]), IncarnationRow(incarnation=1_000))
            deleted = Row(INCARNATION_ROW, bytes([1]), None)
            desk.writer.put(Persist((updated, deleted)))
            await desk.writer.wait_idle()
        nursery.cancel_scope.cancel()
    assert store.commits_count == 1
    store.close()
    again = Store.open(path)
    rows = RowReader(Ed25519Verifier()).read_all(again)
    again.close()
    assert rows[0] == updated
    assert [row.key[0] for row in rows] == [0, *range(2, 200)]
    assert rows[5].value == IncarnationRow(incarnation=7)


async def test_a_row_that_does_not_decode_is_left_out_and_told(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "meshd.db")
    good = encode_body(IncarnationRow(incarnation=3))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.persist(
            [
                Write(INCARNATION_ROW, b"cut", good[:-1]),
                Write(INCARNATION_ROW, b"good", good),
                Write(INCARNATION_ROW, b"noise", b"\xc1\xff"),
            ]
        )
        nursery.cancel_scope.cancel()
    with capture_logs() as logs:
        rows = RowReader(Ed25519Verifier()).read_all(store)
    store.close()
    assert rows == (Row(INCARNATION_ROW, b"good", IncarnationRow(incarnation=3)),)
    assert [(line["event"], line["log_level"], line["key"]) for line in logs] == [
        ("row.unreadable", "error", b"cut".hex()),
        ("row.unreadable", "error", b"noise".hex()),
    ]
