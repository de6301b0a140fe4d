"""The switch of the trio host: the simulator's engine, whose clock moves trio's clock too.

All that is due at one microsecond is done, then every task runs until it waits. Time goes then to
whatever is first: the next due thing, or the next deadline of a task.

Trio counts seconds in floats, in which two timers that are due at the same microsecond may be apart
or in the wrong order. So each instant is a picosecond later on trio's clock than the one before it
makes it: all that is due at a microsecond is past then, in the order in which it was set. Deadlines
are rounded to microseconds here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from support.one_instant import RankedEngine
from support.stepped_trio import SteppedTrio

from simulations.engine import US_PER_S
from simulations.errors import EventBudgetSpent

LATENESS_S = 1e-12  # of each instant; above what a float of a thousand seconds resolves
INSTANTS_MAX = 400_000  # half a microsecond would be rounded the wrong way


class SwitchEngine(RankedEngine):
    """Does what `RankedEngine` does, with the tasks of a stepped trio beside what is due."""

    def __init__(self, stepped: SteppedTrio) -> None:
        super().__init__()
        self._stepped = stepped
        self._instants_count = 0

    def run(
        self, *, until_us: int, events_max: int, is_reached: Callable[[], bool] | None = None
    ) -> bool:
        """Do what `Engine.run` does; a task that wakes counts as an event."""
        events_stop = self.events_count + events_max
        self._stepped.settle()
        while True:
            due_us = min(self._next_or_never_us(), self._wake_us())
            is_over = due_us > self.now_us  # what is due at one microsecond belongs together
            if is_over and is_reached is not None and is_reached():
                return True
            if due_us > until_us:
                self.go_to(max(self.now_us, until_us))
                return False
            if self.events_count >= events_stop:
                raise EventBudgetSpent(f"{events_max} events by {self.now_us} us: a storm")
            self.go_to(int(due_us))
            self._do_all_due()
            self._stepped.settle()

    def go_to(self, due_us: int) -> None:
        """Let the time be `due_us` for trio too."""
        if due_us > self.now_us:
            self._instants_count += 1
            assert self._instants_count < INSTANTS_MAX, "too long a run for trio's floats"
        super().go_to(due_us)
        self._stepped.jump_to(due_us / US_PER_S + self._instants_count * LATENESS_S)

    def _do_all_due(self) -> None:
        """Do what is due now: tasks see all of it together."""
        self.events_count += 1
        while self.next_due_us() == self.now_us:
            self.events_count += 1
            self.do_next()

    def _next_or_never_us(self) -> float:
        due_us = self.next_due_us()
        return math.inf if due_us is None else due_us

    def _wake_us(self) -> float:
        """Return when the first task that waits for time is due: a whole number, or infinity."""
        deadline_s = self._stepped.next_deadline_s
        return deadline_s if math.isinf(deadline_s) else round(deadline_s * US_PER_S)
