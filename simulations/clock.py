"""The two clocks of a simulated device: one that counts for its timers, and the time of day.

The first has an origin of its own in every boot and may run fast or slow, as crystals do; it never
jumps, never goes back, and goes on while the device is suspended. The second is right, wrong by an
offset, or not known, and may jump: the device's node is only told what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulations.engine import Engine
from wire.events import WallClockRead

DRIFT_PPM_MAX = 500_000  # half as fast again, or half as fast: no crystal is that bad
WALL_EPOCH_US = 1_800_000_000_000_000  # the true time when a run begins, in 2027
WALL_UNCERTAINTY_US = 1_000_000

_PPM = 1_000_000


class BootClock:
    """Whole microseconds on one device's own clock."""

    def __init__(self, engine: Engine, *, drift_ppm: int = 0) -> None:
        self._engine = engine
        self._ahead_us = 0  # of virtual time, as long as nothing drifts
        self._drift_ppm = 0
        self._set_us = self._set_at_us = 0
        self.set_drift(drift_ppm)

    @property
    def drift_ppm(self) -> int:
        """By how many millionths the clock is too fast, negative if it is too slow."""
        return self._drift_ppm

    def start(self, origin_us: int) -> None:
        """Count from `origin_us`: the device has booted."""
        self._set(origin_us)

    def set_drift(self, drift_ppm: int) -> None:
        """Run faster or slower from now on; what is shown does not jump. Raises ValueError."""
        if abs(drift_ppm) > DRIFT_PPM_MAX:
            raise ValueError(f"a drift of {drift_ppm} ppm, at most {DRIFT_PPM_MAX} either way")
        now_us = self.now_us()
        self._drift_ppm = drift_ppm
        self._set(now_us)

    def now_us(self) -> int:
        """Return what the clock shows: never less than before in the same boot."""
        if not self._drift_ppm:
            return self._engine.now_us + self._ahead_us
        passed_us = self._engine.now_us - self._set_at_us
        return self._set_us + passed_us * (_PPM + self._drift_ppm) // _PPM

    def due_at_us(self, shown_us: int) -> int:
        """Return the first virtual time at which the clock shows `shown_us`, or now if it has."""
        if not self._drift_ppm:
            return max(self._engine.now_us, shown_us - self._ahead_us)
        rate = _PPM + self._drift_ppm
        passed_us = -(-(shown_us - self._set_us) * _PPM // rate)  # rounded up: not a moment early
        return max(self._engine.now_us, self._set_at_us + passed_us)

    def _set(self, shown_us: int) -> None:
        self._set_us, self._set_at_us = shown_us, self._engine.now_us
        self._ahead_us = shown_us - self._engine.now_us


@dataclass(slots=True)
class WallClock:
    """What a device shows as the time of day.

    `offset_us` is how far it is ahead of the truth, None for a device that does not know the time:
    like a Raspberry Pi, which has no battery for its clock, it is in 1970 when it boots. A wrong
    clock does not know that it is wrong: it claims the same uncertainty as a right one.
    """

    offset_us: int | None = 0
    uncertainty_us: int = WALL_UNCERTAINTY_US

    def read(self, *, true_us: int, uptime_us: int) -> WallClockRead:
        """Return the reading when the run has lasted `true_us` and the device `uptime_us`."""
        if self.offset_us is None:
            return WallClockRead(uptime_us, None)
        shown_us = WALL_EPOCH_US + true_us + self.offset_us
        return WallClockRead(max(0, shown_us), self.uncertainty_us)
