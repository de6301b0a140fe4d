"""The clock of timers and the wall clock."""

from __future__ import annotations

import inspect
import math
import threading
import time

import pytest
import trio

from meshd import clock
from meshd.clock import (
    KNOWN_SINCE_US,
    SLEEP_S_MAX,
    UNDISCIPLINED_UNCERTAINTY_US,
    BootClock,
    WallTime,
    now_us,
    read_wall_time,
)

SUSPEND_S = 3_600.0


class SuspendedClock(BootClock):
    """A boot clock on which the machine can be suspended while trio waits for a deadline."""

    def __init__(self) -> None:
        self.suspended_s = 0.0
        self.waits_s: list[float] = []
        self.is_waiting = threading.Event()

    def current_time(self) -> float:
        return super().current_time() + self.suspended_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        wait_s = super().deadline_to_sleep_time(deadline)
        if wait_s < math.inf:
            self.waits_s.append(wait_s)
            self.is_waiting.set()
        return wait_s


def test_the_clock_counts_in_microseconds_from_the_boot() -> None:
    before_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000
    assert before_us <= now_us() <= BootClock().current_time() * 1_000_000 + 1
    assert isinstance(now_us(), int)


def test_a_wait_is_never_longer_than_a_second_and_never_begun_without_a_deadline() -> None:
    boot = BootClock()
    now = boot.current_time()
    assert boot.deadline_to_sleep_time(now + 3_600) == SLEEP_S_MAX
    assert boot.deadline_to_sleep_time(now + 0.5) <= 0.5
    assert boot.deadline_to_sleep_time(now - 1) < 0
    assert boot.deadline_to_sleep_time(math.inf) == math.inf


def test_trio_sleeps_by_it() -> None:
    async def main() -> float:
        before = trio.current_time()
        await trio.sleep(0.01)
        return trio.current_time() - before

    assert 0.01 <= trio.run(main, clock=BootClock()) < 5


def test_a_timer_is_due_within_a_second_after_a_resume() -> None:
    suspended = SuspendedClock()
    resumed_s = 0.0

    def suspend() -> None:
        """Let an hour pass behind the back of the process, which is woken by nothing."""
        nonlocal resumed_s
        suspended.is_waiting.wait(timeout=10)
        suspended.suspended_s = SUSPEND_S
        resumed_s = time.monotonic()

    thread = threading.Thread(target=suspend)
    thread.start()
    trio.run(trio.sleep, SUSPEND_S, clock=suspended)
    late_s = time.monotonic() - resumed_s
    thread.join()
    assert late_s < SLEEP_S_MAX + 1
    assert max(suspended.waits_s) <= SLEEP_S_MAX


def test_a_disciplined_clock_is_as_uncertain_as_the_kernel_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "_disciplined_error_us", lambda: 1_234)
    found = read_wall_time()
    assert found.uncertainty_us == 1_234
    assert abs(found.wall_us - time.time_ns() // 1_000) < 60_000_000


def test_an_undisciplined_clock_may_be_an_hour_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_disciplined_error_us", lambda: None)
    assert read_wall_time().uncertainty_us == UNDISCIPLINED_UNCERTAINTY_US


@pytest.mark.parametrize("wall_us", [0, KNOWN_SINCE_US - 1])
def test_a_clock_that_was_never_set_is_not_known(
    monkeypatch: pytest.MonkeyPatch, wall_us: int
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: wall_us * 1_000)
    assert read_wall_time() == WallTime(wall_us, None)


def test_this_machine_tells_how_far_its_clock_may_be_off() -> None:
    error_us = clock._disciplined_error_us()
    assert error_us is None or 0 <= error_us < 60_000_000


def test_the_wall_time_is_the_event_that_cores_get() -> None:
    events = pytest.importorskip("wire.events")
    assert inspect.signature(events.WallClockRead) == inspect.signature(WallTime)
