"""A walk through the events of a run, one by one, as a person asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from simulations.trace_diff import line_text
from simulations.trace_lines import TraceLine

HELP = "Enter: next; 10: the next ten; n 2: device 2 only; n: all; d: the devices now; q: end"


@dataclass(slots=True)
class Walk:
    """Where a walk is. `standing_at` gives the lines that say where devices stand at a time."""

    events: Sequence[TraceLine]
    standing_at: Callable[[int], Sequence[str]]
    node: int | None = None  # only what this device saw
    is_over: bool = False
    _next: int = 0
    _now_us: int = 0

    def take(self, words: str) -> Iterator[str]:
        """Do what was typed; yield the lines to show."""
        match words.split():
            case []:
                yield from self._go_on(1)
            case [number] if number.isdecimal():
                yield from self._go_on(int(number[:9]))
            case ["n"]:
                self.node = None
            case ["n", number] if number.isdecimal():
                self.node = int(number[:9])
            case ["d"]:
                yield from self.standing_at(self._now_us)
            case ["q"]:
                self.is_over = True
            case _:
                yield HELP

    def _go_on(self, count: int) -> Iterator[str]:
        while count > 0:
            if self._next >= len(self.events):
                self.is_over = True
                yield "the run ends here"
                return
            event = self.events[self._next]
            self._next += 1
            if self.node in (None, event.node):
                self._now_us = event.time_us
                count -= 1
                yield line_text(event)
