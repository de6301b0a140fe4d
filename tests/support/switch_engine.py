"""The switch of the trio host: the simulator's engine, whose clock moves trio's clock too.

All that is due at one microsecond is done, then every task runs until it waits. Time goes then to
whatever is first: the next due thing, or the next deadline of a task.

Trio counts seconds in floats, in which two timers that are due at the same microsecond may be apart
or in the wrong order. So each instant is a picosecond later on trio's clock than the one before it
makes it: all that is due at a microsecond is past then, in the order in which it was set. Deadlines
are rounded to microseconds here and nowhere else.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from support.stepped_trio import SteppedTrio

from simulations.engine import US_PER_S, Engine
from simulations.errors import EventBudgetSpent

LATENESS_S = 1e-12  # of each instant; above what a float of a thousand seconds resolves
INSTANTS_MAX = 400_000  # half a microsecond would be rounded the wrong way


class SwitchEngine(Engine):
    """Does what `Engine` does, with the tasks of a stepped trio beside what is due."""

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
        while is_reached is None or not is_reached():
            due_us = min(self._heap[0][0] if self._heap else math.inf, self._wake_us())
            if due_us > until_us:
                self._go_to(max(self.now_us, until_us))
                return False
            if self.events_count >= events_stop:
                raise EventBudgetSpent(f"{events_max} events by {self.now_us} us: a storm")
            self._go_to(int(due_us))
            self._do_all_due()
            self._stepped.settle()
        return True

    def _do_all_due(self) -> None:
        """Do what is due now, not what becomes due by that: tasks see all of it together."""
        self.events_count += 1
        last = self._sequence
        while self._heap and self._heap[0][0] <= self.now_us and self._heap[0][1] <= last:
            self.events_count += 1
            heapq.heappop(self._heap)[2]()

    def _wake_us(self) -> float:
        """Return when the first task that waits for time is due: a whole number, or infinity."""
        deadline_s = self._stepped.next_deadline_s
        return deadline_s if math.isinf(deadline_s) else round(deadline_s * US_PER_S)

    def _go_to(self, due_us: int) -> None:
        if due_us > self.now_us:
            self._instants_count += 1
            assert self._instants_count < INSTANTS_MAX, "too long a run for trio's floats"
        self.now_us = due_us
        self._stepped.jump_to(due_us / US_PER_S + self._instants_count * LATENESS_S)
