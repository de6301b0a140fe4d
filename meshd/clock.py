"""The daemon's two clocks: one that counts suspend, for timers, and the wall clock, for people.

Timers run on CLOCK_BOOTTIME (time_namespaces(7), clock_gettime(2)): it never jumps and goes on
while a laptop sleeps. Its origin is arbitrary, so it is never stored or sent. The kernel's waits do
not count suspend, so no wait is longer than a second: after a resume timers are late by that at
most. The wall clock is an input with its uncertainty, since a Raspberry Pi boots in 1970.
"""

from __future__ import annotations

import ctypes
import math
import time

import trio
from msgspec import Struct

SLEEP_S_MAX = 1.0
# Before this the clock was never set: 2024-01-01T00:00:00Z.
KNOWN_SINCE_US = 1_704_067_200_000_000
# Assumed of a clock that nothing disciplines: a cheap crystal drifts a few seconds a day.
UNDISCIPLINED_UNCERTAINTY_US = 3_600_000_000

_TIMEX_BYTES = 256  # struct timex is 208 bytes on 64-bit Linux
_CLOCK_NOT_SYNCHRONISED = 5  # TIME_ERROR


class WallTime(Struct, frozen=True):
    """Microseconds since 1970 (UTC), and how far that may be off; None: the time is not known."""

    wall_us: int
    uncertainty_us: int | None


class BootClock(trio.abc.Clock):
    """Trio's time over CLOCK_BOOTTIME: `trio.run(..., clock=BootClock())`."""

    def start_clock(self) -> None:
        """Do nothing: the clock always runs."""

    def current_time(self) -> float:
        """Return seconds from the same origin as `now_us`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to wait at most before looking at the clock again.

        With no deadline there is nothing to be late for, so an idle daemon is not woken.
        """
        if deadline == math.inf:
            return math.inf
        return min(deadline - self.current_time(), SLEEP_S_MAX)


def now_us() -> int:
    """Return the time that cores are given: whole microseconds that count suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000


def read_wall_time() -> WallTime:
    """Return the wall clock with its uncertainty.

    A clock that NTP disciplines knows its largest error (adjtimex(2)). Another may be off by an
    hour, we assume. One before 2024 was never set.
    """
    wall_us = time.time_ns() // 1_000
    if wall_us < KNOWN_SINCE_US:
        return WallTime(wall_us, None)
    error_us = _disciplined_error_us()
    return WallTime(wall_us, UNDISCIPLINED_UNCERTAINTY_US if error_us is None else error_us)


def _disciplined_error_us() -> int | None:
    """Return the kernel's bound on the clock's error, None if nothing disciplines the clock."""
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None:
        return None
    # struct timex: modes (int, 0 only reads), then as longs: offset, freq, maxerror, ...
    timex = (ctypes.c_long * (_TIMEX_BYTES // ctypes.sizeof(ctypes.c_long)))()
    state = adjtimex(timex)
    if state < 0 or state == _CLOCK_NOT_SYNCHRONISED:
        return None
    return max(0, int(timex[3]))
