"""A daemon whose disk hangs promises nothing new, and a power cut costs nothing it promised."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.daemons import Daemons, Device, await_ready, until
from support.hard_daemons import ECHOED
from support.slow_disk import SlowDisk
from support.wasm import example

from meshd.client import ControlClient, TaskInput
from meshd.control_errors import ControlError

ACCEPTED_COUNT_MIN = 25
DECIDED_COUNT_MIN = 3
SLOW_SYNC_US = 3_000
HANGING_S = 1.0


@dataclass(slots=True)
class Crowd:
    """Somebody who submits one task after the other until the daemon goes away."""

    device: Device
    accepted: dict[str, bytes] = field(default_factory=dict)
    asked_count: int = 0
    refusals: list[str] = field(default_factory=list)

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Submit inside the block, at whose end the daemon must have ended."""
        thread = threading.Thread(target=self._submit, name=f"tasks for {self.device.name}")
        thread.start()
        try:
            yield
        finally:
            if self.device.is_running:
                self.device.kill()
            thread.join()

    def _submit(self) -> None:
        client = ControlClient(self.device.home)
        try:
            while True:
                said = b"task %d" % self.asked_count
                self.asked_count += 1
                answer = client.submit(example("faults/echo"), [TaskInput(stdin=said)])
                (task,) = answer["tasks"]
                self.accepted[str(task)] = said
        except ControlError as error:
            self.refusals.append(str(error))
        finally:
            client.close()


@pytest.fixture
def disk(tmp_path: Path) -> SlowDisk:
    """Return the disk of the device `shed`."""
    return SlowDisk.build(tmp_path, tmp_path / "shed" / "mesh.db", delay_us=SLOW_SYNC_US)


def assert_known(device: Device, accepted: dict[str, bytes]) -> None:
    """Check that the device knows every task."""
    assert {str(view["id"]) for view in device.ask("tasks", limit=1_000)["tasks"]} >= {*accepted}


def assert_done(device: Device, accepted: dict[str, bytes]) -> None:
    """Check that every task comes to its end, and to the right one."""
    for task, said in accepted.items():
        assert device.wait(task)["outcome"] == "result"
        assert device.result(task) == ECHOED + said


def test_a_power_cut_in_the_middle_of_its_promises_costs_a_device_none_of_them(
    tmp_path: Path, disk: SlowDisk
) -> None:
    with Daemons(tmp_path) as daemons:
        device = daemons.start("shed", environ=disk.environ)
        await_ready(device)
        crowd = Crowd(device)
        with crowd.submitting():
            until(lambda: len(crowd.accepted) >= ACCEPTED_COUNT_MIN, "too slow", device)
        disk.cut_power()
        daemons.restart(device)
        await_ready(device)
        assert_known(device, crowd.accepted)
        assert_done(device, crowd.accepted)


def test_a_daemon_whose_disk_hangs_answers_and_promises_nothing(
    tmp_path: Path, disk: SlowDisk
) -> None:
    with Daemons(tmp_path) as daemons:
        device = daemons.start("shed", environ=disk.environ)
        await_ready(device)
        crowd = Crowd(device)
        with crowd.submitting():
            until(lambda: len(crowd.accepted) >= DECIDED_COUNT_MIN, "too slow", device)
            decided = [str(device.wait(task)["id"]) for task in list(crowd.accepted)]
            with disk.hanging():
                until(lambda: disk.is_held, "nothing is written any more", device)
                accepted_count = len(crowd.accepted)
                time.sleep(HANGING_S)
                assert all(device.task(task)["is_decided"] for task in decided)
                # One was perhaps on its way to who asked, who then asked for the next.
                assert len(crowd.accepted) <= accepted_count + 1
                until(lambda: crowd.asked_count > len(crowd.accepted), "nobody asks", device)
                device.kill()
        disk.cut_power()
        daemons.restart(device)
        await_ready(device)
        assert_known(device, crowd.accepted)
