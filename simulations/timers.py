"""The timers of one simulated process, on the clock of its device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TypeAlias

from simulations.clock import BootClock
from simulations.engine import Engine

# A key and when it is due on the device's clock. Each is told from all others by being itself.
Timer: TypeAlias = tuple[Hashable, int]


class Timers:
    """Timers by key: setting a key again replaces its timer."""

    def __init__(self, engine: Engine, clock: BootClock, ring: Callable[[Timer], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._ring = ring
        self._current: dict[Hashable, Timer] = {}

    def __len__(self) -> int:
        """How many are set."""
        return len(self._current)

    def set(self, key: Hashable, after_us: int) -> None:
        """Ring once, in `after_us` of the device's clock."""
        timer = (key, self._clock.now_us() + (after_us if after_us > 0 else 0))
        self._current[key] = timer
        self._wind(timer)

    def take(self, timer: Timer) -> bool:
        """Say whether `timer` is still the one of its key; it is over then."""
        if self._current.get(timer[0]) is not timer:
            return False
        del self._current[timer[0]]
        return True

    def clear(self) -> None:
        """Forget all: the process died."""
        self._current.clear()

    def rewind(self) -> None:
        """Set all anew: the clock runs at another speed now."""
        for key, timer in self._current.items():
            again = self._current[key] = (key, timer[1])
            self._wind(again)

    def _wind(self, timer: Timer) -> None:
        self._engine.at(self._clock.due_at_us(timer[1]), partial(self._rung, timer))

    def _rung(self, timer: Timer) -> None:
        if self._current.get(timer[0]) is timer:
            self._ring(timer)
