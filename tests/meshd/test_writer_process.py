"""The writer and its thread in a real process, on a real file: slow syncs, kills and power cuts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import row_writer
from support.row_writer import NEWEST, own_key, own_rows_count
from support.slow_disk import SlowDisk

from meshd.store import Store
from meshd.writer import RowReader
from p2p.own_records import IncarnationRow
from wire.keys import Ed25519Verifier

PATIENCE_S = 60.0  # the machine may be busy with anything else
SLOW_SYNC_US = 5_000
HANGING_S = 0.5
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Writing:
    """A process that puts rows. `first` is the number of its first `Persist`."""

    process: subprocess.Popen[bytes]
    out: Path
    first: int

    def said(self, what: str) -> list[int]:
        """Return the numbers of what it put, or of what it called durable, in that order."""
        lines = self.out.read_text().rpartition("\n")[0].splitlines()
        pairs = (line.split() for line in lines)
        return [int(number) for word, number in pairs if word == what]

    def await_more(self, what: str, count: int) -> None:
        """Return when it has said that of so many more."""
        wanted = len(self.said(what)) + count
        self.until(lambda: len(self.said(what)) >= wanted, f"not {count} more {what}")

    def until(self, condition: Callable[[], bool], complaint: str) -> None:
        """Return when the condition holds; the process must live meanwhile."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"{complaint}: it ended"
            assert time.monotonic() < deadline_s, complaint
            time.sleep(0.01)

    def kill(self) -> list[int]:
        """End it in the middle of its work; return all that it called durable."""
        self.process.kill()
        assert self.process.wait(PATIENCE_S) == -signal.SIGKILL
        return self.said("durable")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SlowDisk:
    """Return a slow disk below the database of this module."""
    directory = tmp_path_factory.mktemp("slow")
    return SlowDisk.build(directory, directory / "mesh.db", delay_us=SLOW_SYNC_US)


@pytest.fixture
def disk(built: SlowDisk) -> SlowDisk:
    """Return the slow disk, empty."""
    for file in (*built.state.iterdir(), *built.database.parent.glob("mesh.db*")):
        file.unlink()
    return built


@contextmanager
def writing(disk: SlowDisk, out: Path, *, first: int = 0) -> Iterator[Writing]:
    """Run the process; it is killed at the end of the block, if not before."""
    disk.settle()
    command = [sys.executable, row_writer.__file__, str(disk.database), str(first)]
    with (
        out.open("wb") as told,
        subprocess.Popen(command, stdout=told, env={**os.environ, **disk.environ}) as process,
    ):
        try:
            yield Writing(process, out, first)
        finally:
            process.kill()


def stored_count(database: Path) -> int:
    """Return how many `Persist` are in the database, after checking that they are whole.

    And that none is missing before the newest one.
    """
    store = Store.open(database)
    rows = {row.key: row.value for row in RowReader(Ed25519Verifier()).read_all(store)}
    store.close()
    if not rows:
        return 0
    newest = rows.pop(NEWEST)
    assert isinstance(newest, IncarnationRow)
    count = newest.incarnation + 1
    assert rows == {
        own_key(number, index): IncarnationRow(incarnation=number)
        for number in range(count)
        for index in range(own_rows_count(number))
    }
    return count


def test_a_slow_disk_keeps_the_order_and_holds_nothing_up_but_promises(
    disk: SlowDisk, tmp_path: Path
) -> None:
    with writing(disk, tmp_path / "said") as busy:
        busy.await_more("durable", 500)
        with disk.hanging():
            busy.until(lambda: disk.is_held, "nothing is written any more")
            durable_count = len(busy.said("durable"))
            began_s = time.monotonic()
            busy.await_more("put", 200)  # the thread waits for the disk, and only that thread
            time.sleep(max(0.0, began_s + HANGING_S - time.monotonic()))
            assert len(busy.said("durable")) == durable_count
        busy.await_more("durable", 500)
        durable = busy.kill()
    put = busy.said("put")
    assert durable == put[: len(durable)] == [*range(len(durable))]
    assert stored_count(disk.database) >= len(durable)


def test_what_a_killed_process_called_durable_is_there_whole_and_in_order(
    disk: SlowDisk, tmp_path: Path
) -> None:
    count = 0
    for number in range(ROUNDS):
        with writing(disk, tmp_path / f"said.{number}", first=count) as busy:
            busy.await_more("durable", 150 + 100 * number)
            durable = busy.kill()
        assert durable == [*range(count, durable[-1] + 1)]
        count = stored_count(disk.database)
        assert durable[-1] < count <= busy.said("put")[-1] + 1


def test_what_was_called_durable_survives_a_power_cut(disk: SlowDisk, tmp_path: Path) -> None:
    count = 0
    for number in range(ROUNDS):
        with writing(disk, tmp_path / f"said.{number}", first=count) as busy:
            busy.await_more("durable", 150 + 100 * number)
            durable = busy.kill()
        disk.cut_power()
        count = stored_count(disk.database)
        assert count > durable[-1]


def test_what_waits_for_a_sync_when_the_power_goes_was_promised_to_nobody(
    disk: SlowDisk, tmp_path: Path
) -> None:
    with writing(disk, tmp_path / "said") as busy:
        busy.await_more("durable", 100)
        with disk.hanging():
            busy.until(lambda: disk.is_held, "nothing is written any more")
            busy.await_more("put", 200)
            durable = busy.kill()
    disk.cut_power()
    # One sync at a time, and too few pages for a checkpoint, which syncs after its commit has been:
    # what was durable had been told, and nothing else is there.
    assert stored_count(disk.database) == len(durable)
