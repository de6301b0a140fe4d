"""What a trace says of faults: which, when, and what each means to a device.

A fault writes `fault.begun` and, if it lasts, `fault.ended`, with its kind, a number, the devices
it concerns, and a detail. The detail of a split is its groups, "0 1 | 2 3"; of what is one way,
"0 -> 1 2". A kind that is not known here is shown by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from simulations.trace_lines import TraceLine

RANGES_MAX = 6
CUTS = ("split", "bridge", "ring", "cut")
JAMS = ("jam",)
# Seen in the life of the process itself.
OF_PROCESS = ("crash", "crash_writing", "crash_at_effect", "start", "stop", "freeze", "suspend")
MOMENTS = ("backup", "restore", "crash", "crash_writing", "crash_at_effect", "start", "stop")

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "cut": "one-way cut",
        "ring": "ring of majorities",
        "worsen": "bad paths",
        "gray": "gray",
        "fill_disk": "disk full",
        "drift": "clock drifts",
        "wall_clock": "wrong wall clock",
        "heat": "hot",
        "lie": "lies",
        "poison_dht": "DHT poisoned",
        "eclipse_dht": "DHT eclipsed",
    }
)


@dataclass(slots=True)
class FaultSpan:
    """One fault. No end: it lasts as long as the trace, or is a moment (`MOMENTS`)."""

    kind: str
    nodes: tuple[int, ...]
    detail: str
    begun_us: int
    ended_us: int | None = None

    @property
    def sameness(self) -> tuple[str, tuple[int, ...], str]:
        """What two faults have in common that are the same one, at another time."""
        return self.kind, self.nodes, self.detail

    @property
    def is_cut(self) -> bool:
        """Whether it keeps devices from each other."""
        return self.kind in CUTS

    @property
    def name(self) -> str:
        """What people call it, with its detail."""
        return _said(self.kind, self._detail or ("" if self.is_cut else devices_text(self.nodes)))

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """The groups that its detail names; devices in none are a group of their own."""
        if "|" not in self.detail:
            return ()
        named = [_numbers(group) for group in self.detail.split("|")]
        inside = {node for group in named for node in group}
        rest = tuple(node for node in self.nodes if node not in inside)
        return tuple(group for group in (*named, rest) if group)

    def side_of(self, node: int) -> int:
        """Return which of its sides a device is on, 0 where there are none."""
        if "->" in self.detail:
            return 0 if node in self._ways[0] else 1
        places = (place for place, group in enumerate(self.sides) if node in group)
        return next(places, 0)

    def meaning(self, node: int) -> str | None:
        """Return what it means to a device, None if nothing that its process does not show."""
        if self.kind in OF_PROCESS + MOMENTS or node not in self.nodes:
            return None
        if "->" in self.detail and self.kind in CUTS + JAMS:
            return self._one_way(node)
        if self.kind == "bridge" and len(self.sides) == 3:
            far = {0: self.sides[2], 2: self.sides[0]}.get(self.side_of(node))
            return f"cannot reach {devices_text(far)}" if far else "bridge: reaches all"
        if self.kind == "split" and self.sides:
            mine = self.sides[self.side_of(node)]
            return f"cannot reach {devices_text([one for one in self.nodes if one not in mine])}"
        return _said(self.kind, self._detail)

    @property
    def _detail(self) -> str:
        """Its detail for people: devices as "0-29 | 30-59", other words without underlines."""
        if "|" in self.detail:
            groups = (devices_text(_numbers(group)) for group in self.detail.split("|"))
            return " | ".join(groups)
        if "->" in self.detail:
            return " -> ".join(map(devices_text, self._ways))
        return self.detail.replace("_", " ")

    @property
    def _ways(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        origins, _, targets = self.detail.partition("->")
        return _numbers(origins), _numbers(targets)

    def _one_way(self, node: int) -> str:
        origins, targets = self._ways
        late = " in time" if self.kind in JAMS else ""
        if node in origins:
            return f"does not get through to {devices_text(targets)}{late}"
        return f"does not hear {devices_text(origins)}{late}"


class FaultSpans:
    """All faults of a run, in the order in which they began."""

    def __init__(self) -> None:
        self.faults: list[FaultSpan] = []
        self._open: dict[int, FaultSpan] = {}

    def on_line(self, line: TraceLine) -> None:
        """Take a line; others than those of faults change nothing."""
        number = line.number("number")
        if number is None:
            return
        if line.event == "fault.begun":
            nodes = _numbers(line.text("nodes"))
            fault = FaultSpan(line.text("fault"), nodes, line.text("detail"), line.time_us)
            self.faults.append(fault)
            self._open[number] = fault
        elif line.event == "fault.ended" and number in self._open:
            self._open.pop(number).ended_us = line.time_us

    def has(self, kind: str, node: int) -> bool:
        """Whether a fault of this kind lasts at a device."""
        return any(fault.kind == kind and node in fault.nodes for fault in self._open.values())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split() if part.isdecimal())


def _said(kind: str, detail: str) -> str:
    words = WORDS.get(kind, kind.replace("_", " "))
    return f"{words}: {detail}" if detail else words


def devices_text(nodes: Sequence[int]) -> str:
    """Return the numbers of devices, "0-3, 7"; of many ranges only how many devices they are."""
    ranges: list[tuple[int, int]] = []
    for node in sorted(nodes):
        if ranges and node == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], node)
        else:
            ranges.append((node, node))
    if len(ranges) > RANGES_MAX:
        return f"{len(nodes)} devices"
    return ", ".join(_range(first, last) for first, last in ranges)


def _range(first: int, last: int) -> str:
    if last - first < 2:
        return str(first) if first == last else f"{first}, {last}"
    return f"{first}-{last}"
