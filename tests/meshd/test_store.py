"""Rows that were promised are there, whole, in order, and nothing is promised before the disk."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshd import store as store_module
from meshd.errors import RecordTooLarge, StoreFailed
from meshd.store import BODY_BYTES_MAX, KEY_BYTES_MAX, QUEUE_CALLS_MAX, Store, Write

FILES = ("mesh.db", "mesh.db-wal", "mesh.db-shm")


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[Store]:
    """A store with its writer, both gone after the block."""
    store = Store.open(path)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            yield store
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def row(key: bytes, body: bytes | None = b"body", kind: str = "task") -> Write:
    return Write(kind, key, body)


async def test_rows_survive_a_restart_in_order_of_insertion(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    async with running(path) as store:
        await store.persist([row(b"z"), row(b"a"), row(b"m", kind="lease")])
        await store.persist([row(b"b"), row(b"z", b"changed")])
    async with running(path) as store:
        found = store.load_all(["task", "lease", "none"])
    assert found == {
        "task": [(b"z", b"changed"), (b"a", b"body"), (b"b", b"body")],
        "lease": [(b"m", b"body")],
        "none": [],
    }


async def test_a_deleted_row_is_gone_and_comes_back_as_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    async with running(path) as store:
        await store.persist([row(b"a"), row(b"b")])
        (newest, _) = await store.load("task")
        await store.persist([row(b"b", None), row(b"never there", None)])
        assert [found.key for found in await store.load("task")] == [b"a"]
    async with running(path) as store:  # a sequence is not used twice, not even after a restart
        await store.persist([row(b"b")])
        (again, _) = await store.load("task")
    assert again.key == b"b"
    assert again.sequence > newest.sequence


@pytest.mark.parametrize("prefix", [b"", b"n"])
async def test_pages_are_newest_first_and_do_not_move_when_rows_change(
    tmp_path: Path, prefix: bytes
) -> None:
    async with running(tmp_path / "mesh.db") as store:
        await store.persist([row(b"n%d" % number) for number in range(5)])
        first = await store.load("task", prefix=prefix, limit=2)
        await store.persist([row(b"n0", b"changed"), row(b"new")])
        second = await store.load("task", prefix=prefix, before=first[-1].sequence, limit=2)
        third = await store.load("task", prefix=prefix, before=second[-1].sequence, limit=2)
    assert [found.key[1:] for found in (*first, *second, *third)] == [b"4", b"3", b"2", b"1", b"0"]
    assert third[-1].body == b"changed"


@pytest.mark.parametrize("prefix", [b"ab", b"a", b"a\xff", b"\xff", b"\xff\xff", b"b"])
async def test_a_prefix_finds_its_keys_and_no_others(tmp_path: Path, prefix: bytes) -> None:
    keys = [b"a", b"ab", b"abc", b"ac", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"]
    async with running(tmp_path / "mesh.db") as store:
        await store.persist([row(key) for key in keys])
        await store.persist([row(key, kind="other") for key in keys])
        found = await store.load("task", prefix=prefix)
    assert [each.key for each in found] == [key for key in reversed(keys) if key.startswith(prefix)]


async def test_a_load_is_bounded_whatever_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOAD_ROWS_MAX", 3)
    async with running(tmp_path / "mesh.db") as store:
        await store.persist([row(b"%d" % number) for number in range(5)])
        assert len(await store.load("task", limit=1_000_000)) == 3
        assert await store.load("task", limit=-1) == []


async def test_nothing_is_acknowledged_before_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_commit = threading.Event()
    commit = Store._commit

    def held(store: Store, calls: list[store_module._Call]) -> None:
        may_commit.wait(timeout=30)
        commit(store, calls)

    monkeypatch.setattr(Store, "_commit", held)
    acknowledged: list[bytes] = []

    async def write(store: Store, key: bytes) -> None:
        await store.persist([row(key)])
        acknowledged.append(key)

    path = tmp_path / "mesh.db"
    async with running(path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(write, store, b"a")
        await trio.testing.wait_all_tasks_blocked()
        assert acknowledged == []
        with contextlib.closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT count(*) FROM records").fetchone() == (0,)
        may_commit.set()
    assert acknowledged == [b"a"]


async def test_whoever_was_acknowledged_reads_its_rows_while_others_write(tmp_path: Path) -> None:
    """With more who read at once than there are threads for it."""
    tasks_count, turns_count = 3 * store_module.READERS_MAX, 20

    async def write_and_read(store: Store, prefix: bytes) -> None:
        for turn in range(turns_count):
            await store.persist([row(prefix + bytes([turn])), row(prefix, bytes([turn]))])
            read = {each.key: each.body for each in await store.load("task", prefix=prefix)}
            assert read.pop(prefix) == bytes([turn])
            assert {*read} == {prefix + bytes([earlier]) for earlier in range(turn + 1)}

    with trio.fail_after(60):
        async with running(tmp_path / "mesh.db") as store:
            async with trio.open_nursery() as nursery:
                for number in range(tasks_count):
                    nursery.start_soon(write_and_read, store, b"%02d" % number)
            assert store.rows_count == 2 * tasks_count * turns_count
            assert store.commits_count < tasks_count * turns_count  # some shared one


async def test_who_reads_waits_for_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_commit = trio.Event(), threading.Event()
    commit = Store._commit

    def held(store: Store, calls: list[store_module._Call]) -> None:
        store._connection.execute("BEGIN IMMEDIATE")  # as slow as if its rows were many
        trio.from_thread.run_sync(began.set)
        may_commit.wait(timeout=30)
        store._connection.execute("ROLLBACK")
        commit(store, calls)

    with trio.fail_after(60):
        async with running(tmp_path / "mesh.db") as store, trio.open_nursery() as nursery:
            await store.persist([row(b"a")])
            monkeypatch.setattr(Store, "_commit", held)
            nursery.start_soon(store.persist, [row(b"b")])
            await began.wait()
            assert [each.key for each in await store.load("task")] == [b"a"]
            may_commit.set()


async def test_calls_that_wait_share_a_commit(tmp_path: Path) -> None:
    async with running(tmp_path / "mesh.db") as store:
        async with trio.open_nursery() as nursery:
            for number in range(400):
                nursery.start_soon(store.persist, [row(b"%d" % number)])
        assert store.rows_count == 400
        assert store.commits_count <= 3


async def test_a_full_queue_makes_writers_wait_and_loses_nothing(tmp_path: Path) -> None:
    count = QUEUE_CALLS_MAX + 100
    store = Store.open(tmp_path / "mesh.db")
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as writers:
            for number in range(count):
                writers.start_soon(store.persist, [row(b"%d" % number)])
            await trio.testing.wait_all_tasks_blocked()
            assert store.waiting_count == QUEUE_CALLS_MAX
            await nursery.start(store.run)
        nursery.cancel_scope.cancel()
    assert len(store.load_all(["task"])["task"]) == count
    store.close()


async def test_a_store_that_stops_refuses_all_that_wait(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "mesh.db")
    refused: list[int] = []

    async def write(number: int) -> None:
        try:
            await store.persist([row(b"%d" % number)])
        except StoreFailed:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(QUEUE_CALLS_MAX + 2):
            nursery.start_soon(write, number)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.run()
    assert len(refused) == QUEUE_CALLS_MAX + 2
    with pytest.raises(StoreFailed, match="closed"):
        await store.persist([row(b"later")])
    assert store.load_all(["task"]) == {"task": []}
    store.close()


async def test_a_commit_that_has_begun_is_acknowledged_although_the_writer_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_commit = trio.Event(), threading.Event()
    commit = Store._commit

    def held(store: Store, calls: list[store_module._Call]) -> None:
        trio.from_thread.run_sync(began.set)
        may_commit.wait(timeout=30)
        commit(store, calls)

    monkeypatch.setattr(Store, "_commit", held)
    store = Store.open(tmp_path / "mesh.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        async with trio.open_nursery() as writers:
            writers.start_soon(store.persist, [row(b"a")])
            await began.wait()
            nursery.cancel_scope.cancel()
            may_commit.set()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
    assert store.load_all(["task"]) == {"task": [(b"a", b"body")]}
    store.close()


async def test_after_one_failure_every_write_is_refused_until_the_store_is_opened_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mesh.db"
    store = Store.open(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.persist([row(b"a")])
        store._connection.execute("PRAGMA query_only = ON")  # what a remount read-only does
        with pytest.raises(StoreFailed, match="cannot be written"):
            await store.persist([row(b"b"), row(b"c")])
        store._connection.execute("PRAGMA query_only = OFF")
        with pytest.raises(StoreFailed, match="cannot be written"):
            await store.persist([row(b"d")])
    store.close()
    async with running(path) as again:
        await again.persist([row(b"e")])
        assert [key for key, _ in again.load_all(["task"])["task"]] == [b"a", b"e"]


async def test_one_call_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    store = Store.open(path)
    store._connection.execute(
        "CREATE TEMP TRIGGER fail BEFORE INSERT ON records WHEN new.key = x'02'"
        " BEGIN SELECT RAISE(ABORT, 'the disk failed here'); END"
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        with pytest.raises(StoreFailed):
            await store.persist([row(b"\x01"), row(b"\x02"), row(b"\x03")])
    assert store.load_all(["task"]) == {"task": []}
    store.close()


@pytest.mark.parametrize(
    "write",
    [
        row(b"k" * (KEY_BYTES_MAX + 1)),
        row(b"k", kind=""),
        row(b"k", kind="x" * 33),
        row(b"k", bytes(BODY_BYTES_MAX + 1)),
    ],
)
async def test_a_row_over_the_bounds_is_refused_alone(tmp_path: Path, write: Write) -> None:
    async with running(tmp_path / "mesh.db") as store:
        with pytest.raises(RecordTooLarge):
            await store.persist([row(b"a"), write])
        await store.persist([row(b"b")])  # the store still works
        assert store.load_all(["task"]) == {"task": [(b"b", b"body")]}


async def test_the_database_and_its_log_are_private(tmp_path: Path) -> None:
    async with running(tmp_path / "mesh.db") as store:
        await store.persist([row(b"a")])
        modes = {file: stat.S_IMODE((tmp_path / file).stat().st_mode) for file in FILES}
    assert modes == dict.fromkeys(FILES, 0o600)


_keys = st.binary(max_size=3)
_writes = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), _keys, st.none() | st.binary(max_size=5)), max_size=6
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=st.lists(st.one_of(_writes, st.just("restart")), max_size=8), prefix=_keys)
@example(calls=[[("a", b"", b"")], "restart", [("a", b"", None), ("a", b"", b"x")]], prefix=b"")
async def test_the_store_is_a_dictionary_that_keeps_its_order(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[list[tuple[str, bytes, bytes | None]] | str],
    prefix: bytes,
) -> None:
    path = tmp_path_factory.mktemp("model") / "mesh.db"
    model: dict[tuple[str, bytes], bytes] = {}
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(running(path))
        for call in calls:
            if isinstance(call, str):
                await stack.aclose()
                store = await stack.enter_async_context(running(path))
                continue
            await store.persist([Write(*parts) for parts in call])
            for kind, key, body in call:
                if body is None:
                    model.pop((kind, key), None)
                else:
                    model[kind, key] = body
        for kind in ("a", "b"):
            rows = [(key, body) for (found, key), body in model.items() if found == kind]
            assert store.load_all([kind])[kind] == rows
            loaded = await store.load(kind, prefix=prefix)
            wanted = [each for each in reversed(rows) if each[0].startswith(prefix)]
            assert [(each.key, each.body) for each in loaded] == wanted
