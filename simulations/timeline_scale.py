"""Where on a timeline a time is, and which rows a timeline's parts take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from simulations.drawing import GRAY, SILVER, Mark, Shape, Text, line, tint
from simulations.engine import US_PER_S

WIDTH = 1_280.0
MARGIN = 16.0
LEFT = 150.0  # of the time axis; labels are left of it
RIGHT = WIDTH - 96.0
TICKS_MAX = 12
MARK_WIDTH_MIN = 2.0
_NEXT = {1: 2, 2: 5, 5: 10}
_MILLI_US = 1_000


class Section(NamedTuple):
    """A part of the picture, and where it ends."""

    marks: list[Mark]
    bottom: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps the time of a run, from 0 to `end_us`, to the width of the picture."""

    end_us: int

    def x(self, time_us: int) -> float:
        """Return where a time is; what is later than the end is there."""
        return LEFT + (RIGHT - LEFT) * min(time_us, self.end_us) / max(1, self.end_us)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places on the axis and what they are called, at a round distance."""
        step_us = _MILLI_US
        while self.end_us // step_us > TICKS_MAX:
            step_us = _next_step(step_us)
        times = range(0, self.end_us + 1, step_us)
        return [(self.x(time_us), _seconds(time_us, step_us)) for time_us in times]


def grid(scale: Scale, top: float, bottom: float) -> list[Mark]:
    """Return a thin line for each tick."""
    return [line((x, top), (x, bottom), tint(SILVER, 400), width=0.5) for x, _ in scale.ticks()]


def axis(scale: Scale, top: float) -> Section:
    """Return the time axis."""
    marks: list[Mark] = [line((LEFT, top), (RIGHT, top), GRAY)]
    for x, label in scale.ticks():
        marks.append(line((x, top), (x, top + 4), GRAY))
        marks.append(Text(x=x, y=top + 16, text=label, fill=GRAY, anchor="middle"))
    marks.append(Text(x=LEFT - 12, y=top + 16, text="virtual time", fill=GRAY, anchor="end"))
    return Section(marks, top + 24)


def heading(text: str, top: float, *, right: str = "") -> Section:
    """Return the line that opens a part, with what its right column means."""
    marks: list[Mark] = [
        line((MARGIN, top + 2), (WIDTH - MARGIN, top + 2), SILVER),
        Text(x=MARGIN, y=top + 18, text=text, size=13),
        Text(x=WIDTH - MARGIN, y=top + 18, text=right, size=9.5, fill=GRAY, anchor="end"),
    ]
    return Section(marks, top + 26)


def rows(extents: Sequence[tuple[float, float]], *, gap: float, rows_max: int) -> list[int]:
    """Return a row for each extent (from, to): the first in which it is `gap` off all others.

    An extent for which `rows_max` rows have no room gets the row `rows_max`, as others may.
    """
    ends: list[float] = []
    found = [rows_max] * len(extents)
    for place in sorted(range(len(extents)), key=lambda place: (extents[place], place)):
        start, end = extents[place]
        row = next((row for row, taken in enumerate(ends) if taken + gap <= start), len(ends))
        if row < rows_max:
            ends[row : row + 1] = [end]
            found[place] = row
    return found


def triangle(x: float, y: float, size: float, fill: str, *, is_up: bool, tooltip: str) -> Shape:
    """Return a small triangle around (x, y) that points up or down."""
    tip, base = (y - size, y + size) if is_up else (y + size, y - size)
    points = ((x - size, base), (x + size, base), (x, tip))
    return Shape(points=points, fill=fill, tooltip=tooltip)


def seconds(time_us: int) -> str:
    """Return a time for a tooltip."""
    return f"{time_us // US_PER_S}.{time_us % US_PER_S // _MILLI_US:03} s"


def _next_step(step_us: int) -> int:
    """Return the next of 1, 2 and 5 times a power of ten."""
    first = int(str(step_us)[0])
    return step_us // first * _NEXT[first]


def _seconds(time_us: int, step_us: int) -> str:
    digits = max(0, len(str(US_PER_S)) - len(str(step_us)))
    whole, part = divmod(time_us, US_PER_S)
    decimals = f"{part:06}"[:digits]
    return f"{whole}.{decimals} s" if digits else f"{whole} s"
