"""A full disk stops or refuses with one line, and costs nothing that was accepted.

The disks are small file systems in memory, so these tests need root.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.complaints import start, typed
from support.daemons import LOOPBACK, Daemons, await_ready, until
from support.small_disk import fill, small_disk
from support.wasm import EXAMPLES, example

from meshd.client import TaskInput

KIB, MIB = 1 << 10, 1 << 20
SLOW = {"fuel": 10**12, "wall_us": 3_000_000}
EXIT_CODE, ECHO = (str(EXAMPLES / "faults" / f"{name}.wasm") for name in ("exit_code", "echo"))


def grow(disk: Path, *, size_bytes: int) -> None:
    """Let more fit on a disk."""
    command = ["mount", "-o", f"remount,size={size_bytes}", str(disk)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("size_bytes", [4 * KIB, 8 * KIB, 16 * KIB, 40 * KIB, 80 * KIB])
def test_a_first_start_without_room_says_so_and_can_be_had_later(
    tmp_path: Path, size_bytes: int
) -> None:
    with small_disk(tmp_path / "disk", size_bytes=size_bytes) as disk:
        start(disk / "home").complaint(1, str(disk / "home"), "free some space")
        grow(disk, size_bytes=10 * MIB)
        with Daemons(disk) as daemons:
            device = daemons.start("home")  # the same home
            await_ready(device)
            (task,) = device.submit(example("faults/exit_code"), TaskInput(args=["7"]))
            assert device.wait(task)["exit_code"] == 7
            assert device.stop() == 0


def test_a_database_that_is_full_stops_the_daemon_which_comes_back_with_every_task(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", size_bytes=6 * MIB) as disk, Daemons(tmp_path) as daemons:
        (tmp_path / "shed").symlink_to(disk)  # its output and log stay outside
        device = daemons.start("shed")
        await_ready(device)
        (done,) = device.submit(example("faults/exit_code"), TaskInput(args=["7"]))
        assert device.wait(done)["exit_code"] == 7
        (slow,) = device.submit(example("faults/spin"), TaskInput(), limits=SLOW)
        until(lambda: device.task(slow)["state"] == "executing", "it did not begin", device)
        device.hang_up()
        filler = fill(disk)

        # Large enough for its row not to fit into pages that the database has already.
        words = ("submit", EXIT_CODE, "5", "a" * 4000)
        asked = typed("meshctl", *words, home=device.home)
        asked.complaint(111, "before it said whether it took the task", "meshctl tasks")
        assert device.process.wait(30) == 1
        last = device.log.read_text().splitlines()[-1]
        assert last.startswith(f"meshd: {device.home}/mesh.db: the disk is full: free some space")
        assert last.endswith("everything that was accepted is kept")
        assert "Traceback" not in device.log.read_text()
        assert start(device.home).code == 1  # still full

        filler.unlink()
        daemons.restart(device)
        await_ready(device)
        assert device.task(done)["exit_code"] == 7
        assert device.wait(slow)["status"] == "out_of_time"
        assert device.stop() == 0


def test_content_that_does_not_fit_is_refused_and_the_daemon_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=8 * MIB) as disk, Daemons(tmp_path) as daemons:
        (tmp_path / "shed").symlink_to(disk)
        device = daemons.start("shed")
        await_ready(device)
        for name in ("first", "second"):
            (tmp_path / name).write_bytes(os.urandom(5 * MIB))
        words = ("submit", EXIT_CODE, "3", "--output", "json", "--input")
        assert typed("meshctl", *words, str(tmp_path / "first"), home=device.home).code == 3
        refused = typed("meshctl", *words, str(tmp_path / "second"), home=device.home)
        refused.complaint(102, "No space left on device", "free space on the disk")
        assert refused.error["code"] == "storage_full"

        # An output has no room either, on the only device there is.
        (tmp_path / "third").write_bytes(os.urandom(3 * MIB // 2))
        words = ("submit", ECHO, "--retries", "1", "--input", str(tmp_path / "third"))
        failed = typed("meshctl", *words, "--to", str(tmp_path / "out"), home=device.home)
        failed.complaint(102, "the task failed", "No space left on device")
        assert not (tmp_path / "out").exists()

        assert typed("meshctl", "submit", EXIT_CODE, "4", home=device.home).code == 4
        assert device.stop() == 0


def test_a_cut_short_disk_takes_no_part_of_a_home(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=4 * KIB) as disk:
        start(disk / "home", listen=LOOPBACK).complaint(1)
        home = disk / "home"
        assert not (home / "key").exists() or (home / "key").stat().st_size == 74
        assert [path.name for path in home.iterdir() if path.name.endswith(".new")] == []


def test_a_read_only_disk_refuses_a_start_with_one_line_and_keeps_every_task(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", size_bytes=10 * MIB) as disk, Daemons(tmp_path) as daemons:
        (tmp_path / "vault").symlink_to(disk)  # its output and log stay outside
        device = daemons.start("vault")
        await_ready(device)
        (done,) = device.submit(example("faults/exit_code"), TaskInput(args=["7"]))
        assert device.wait(done)["exit_code"] == 7
        device.hang_up()
        device.process.kill()
        device.process.wait(10)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

        start(device.home).complaint(1, str(device.home), "read-only file system", "mount it")

        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        daemons.restart(device)
        await_ready(device)
        assert device.task(done)["exit_code"] == 7
        assert device.stop() == 0
