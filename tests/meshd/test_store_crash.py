"""Real processes and real disks: a kill at any moment, a disk without space."""

from __future__ import annotations

import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
from support import store_writer
from support.small_disk import fill, small_disk

from meshd.errors import StoreFailed
from meshd.store import Store, Write

ROUNDS = 5


def test_a_kill_loses_no_acknowledged_row_and_tears_no_call(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    acknowledged: set[bytes] = set()
    ids = set()
    for number in range(ROUNDS):
        acknowledged |= _write_and_kill(path, number, acknowledged_min=100 + 150 * number)
        store = Store.open(path)
        found = store.load_all(["left", "right"])
        store.close()
        left = {key for key, _ in found["left"]}
        assert acknowledged - left == set()
        assert left == {key for key, _ in found["right"]}
        assert all(body.endswith(key) for key, body in found["left"])
        ids.add(store.store_id)
    assert len(acknowledged) >= 100 * ROUNDS
    assert len(ids) == 1  # a crash is not a restore


def _write_and_kill(path: Path, number: int, *, acknowledged_min: int) -> set[bytes]:
    """Return what the writer had acknowledged when it was killed in the middle of its work."""
    command = [sys.executable, store_writer.__file__, str(path), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as writer:
        assert writer.stdout is not None
        said = b""
        deadline = time.monotonic() + 60
        while said.count(b"\n") < acknowledged_min:
            ready, _, _ = select.select([writer.stdout], [], [], deadline - time.monotonic())
            assert ready, "the writer got nothing done in a minute"
            said += writer.stdout.read(65536)
        writer.kill()
        said += writer.stdout.read()
        assert writer.wait() == -signal.SIGKILL
    return set(said.split(b"\n")[:-1])


async def _write_until_refused(store: Store) -> tuple[int, str]:
    """Return how many calls were acknowledged, and why the next was not."""
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for number in range(10_000):
            pair = [Write(kind, b"%d" % number, bytes(2_000)) for kind in ("left", "right")]
            try:
                await store.persist(pair)
            except StoreFailed as error:
                return number, str(error)
    raise AssertionError("the disk never filled")


async def test_a_full_disk_is_refused_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=2 << 20) as disk:
        path, others = disk / "mesh.db", disk / "of other programs"
        others.write_bytes(bytes(1 << 20))
        store = Store.open(path)
        count, reason = await _write_until_refused(store)
        assert "disk is full: free some space, then start again" in reason
        others.unlink()
        with pytest.raises(StoreFailed, match="disk is full"):
            await store.persist([Write("left", b"small", b"")])
        store.close()
        store = Store.open(path)
        found = store.load_all(["left", "right"])
        store.close()
    assert count > 10
    assert [key for key, _ in found["left"]][:count] == [b"%d" % number for number in range(count)]
    assert found["left"] == found["right"]


def test_opening_on_a_full_disk_is_one_clear_line_and_keeps_what_is_there(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=512 * 1024) as disk:
        Store.open(disk / "mesh.db").close()
        before = (disk / "mesh.db").read_bytes()
        filler = fill(disk)
        for name in ("mesh.db", "new.db"):
            with pytest.raises(StoreFailed, match=r"full|no room") as refused:
                Store.open(disk / name)
            assert "\n" not in str(refused.value)
        assert (disk / "mesh.db").read_bytes() == before
        filler.unlink()
        Store.open(disk / "mesh.db").close()
        Store.open(disk / "new.db").close()


async def test_a_file_over_its_size_limit_is_refused_like_a_full_disk(tmp_path: Path) -> None:
    """What a quota does to the file, where the test may not mount anything."""
    store = Store.open(tmp_path / "mesh.db")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, before[1]))
        count, reason = await _write_until_refused(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    store.close()
    assert "no room: free some space" in reason
    assert count > 10
    again = Store.open(tmp_path / "mesh.db")
    found = again.load_all(["left", "right"])
    again.close()
    assert [key for key, _ in found["left"]][:count] == [b"%d" % number for number in range(count)]
    assert found["left"] == found["right"]
