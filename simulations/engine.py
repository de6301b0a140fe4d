"""Virtual time: a heap of things that are due, carried out one after another.

Times are integer microseconds since the run began. Two things due at the same time happen in the
order in which they were scheduled. Nothing here waits, sleeps or runs at the same time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

from simulations.errors import EventBudgetSpent

Action: TypeAlias = Callable[[], None]

US_PER_S = 1_000_000


class Engine:
    """The clock of a simulation and what is still to happen."""

    def __init__(self) -> None:
        self.now_us = 0
        self.events_count = 0
        self._sequence = 0
        self._heap: list[tuple[int, int, Action]] = []

    def after(self, delay_us: int, action: Action) -> None:
        """Carry out `action` in `delay_us`, at the earliest after all that is due before it."""
        self.at(self.now_us + delay_us, action)

    def at(self, due_us: int, action: Action) -> None:
        """Carry out `action` at `due_us`, which must not be past."""
        if due_us < self.now_us:
            raise ValueError(f"{due_us} us is past, it is {self.now_us} us")
        self._sequence += 1
        heapq.heappush(self._heap, (due_us, self._sequence, action))

    def run(
        self, *, until_us: int, events_max: int, is_reached: Callable[[], bool] | None = None
    ) -> bool:
        """Carry out what is due up to `until_us`, or until `is_reached`; say whether it was.

        The clock ends at `until_us` unless `is_reached`. Raises EventBudgetSpent after
        `events_max` events, which is how storms are found.
        """
        events_stop = self.events_count + events_max
        if is_reached is not None and is_reached():
            return True
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_us:
            if self.events_count >= events_stop:
                raise EventBudgetSpent(f"{events_max} events by {self.now_us} us: a storm")
            self.now_us, _, action = pop(heap)
            self.events_count += 1
            action()
            if is_reached is not None and is_reached():
                return True
        self.now_us = max(self.now_us, until_us)
        return False
