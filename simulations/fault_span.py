"""What a trace says of when faults were: each begins with a line, and ends with one if it lasts.

`fault.begun` and `fault.ended` have the fault's kind, its number, the devices it concerns, and a
detail (`simulations.fault_shape`).
"""

from __future__ import annotations

from dataclasses import dataclass

from simulations.fault_shape import FaultShape, shape_of
from simulations.trace_lines import TraceLine


@dataclass(slots=True)
class FaultSpan:
    """One fault. No end: it lasts as long as the trace, or is a moment."""

    shape: FaultShape
    begun_us: int
    ended_us: int | None = None

    def end_us(self, trace_end_us: int) -> int:
        """Return when it ends, in a trace that ends then."""
        if self.ended_us is not None:
            return self.ended_us
        return self.begun_us if self.shape.is_moment else trace_end_us


class FaultSpans:
    """All faults of a run, in the order in which they began."""

    def __init__(self) -> None:
        self.faults: list[FaultSpan] = []
        self._shapes: dict[tuple[str, str, str], FaultShape] = {}
        self._open: dict[int, FaultSpan] = {}

    def on_line(self, line: TraceLine) -> None:
        """Take a line; others than those of faults change nothing."""
        number = line.number("number")
        if number is None:
            return
        if line.event == "fault.begun":
            fault = FaultSpan(self._shape(line), line.time_us)
            self.faults.append(fault)
            self._open[number] = fault
        elif line.event == "fault.ended" and number in self._open:
            self._open.pop(number).ended_us = line.time_us

    def _shape(self, line: TraceLine) -> FaultShape:
        said = (line.text("fault"), line.text("nodes"), line.text("detail"))
        if said not in self._shapes:
            self._shapes[said] = shape_of(*said)
        return self._shapes[said]
