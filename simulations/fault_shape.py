"""What a fault is, whenever it comes: its name, whom it sets apart, and what it means to a device.

The detail of a split is its groups, "0 1 | 2 3", and whoever is in none is in one more; that of
what is one way is "0 -> 1 2". A kind that is not known here goes by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

RANGES_MAX = 6
SPLITS = ("split", "bridge")
CUTS = (*SPLITS, "ring", "cut")
JAMS = ("jam",)
# Over as soon as they have begun; what lasts of them is seen elsewhere.
MOMENTS = ("backup", "restore", "crash", "crash_writing", "crash_at_effect", "start", "stop")
# Seen in the life of the process itself.
OF_PROCESS = (*MOMENTS, "freeze", "suspend")

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


@dataclass(eq=False)
class FaultShape:
    """What is the same of a fault each time it comes; each is one object, compared as such."""

    kind: str
    nodes: tuple[int, ...]
    detail: str
    _meanings: dict[int, str | None] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool:
        """Whether it keeps devices from each other."""
        return self.kind in CUTS

    @property
    def is_moment(self) -> bool:
        """Whether it does not last."""
        return self.kind in MOMENTS

    @cached_property
    def name(self) -> str:
        """What people call it, with its detail."""
        if self._sides or self.is_cut:
            return _said(self.kind, self._detail)
        where = f" ({'device' if len(self.nodes) == 1 else 'devices'} {devices_text(self.nodes)})"
        return _said(self.kind, self._detail, where=where if self.nodes else "")

    def side_of(self, node: int) -> int:
        """Return on which of the sides that it sets apart a device is, 0 where there are none."""
        return self._sides_by_node.get(node, 0)

    def meaning(self, node: int) -> str | None:
        """Return what it means to a device, None if nothing that its process does not show."""
        if node not in self._meanings:
            self._meanings[node] = self._meaning(node)
        return self._meanings[node]

    @cached_property
    def _sides(self) -> tuple[tuple[int, ...], ...]:
        """The groups of a split, the origins and targets of what is one way."""
        if "->" in self.detail:
            origins, _, targets = self.detail.partition("->")
            return _numbers(origins), _numbers(targets)
        if self.kind not in SPLITS:
            return ()
        named = [_numbers(group) for group in self.detail.split("|")]
        inside = {node for group in named for node in group}
        rest = tuple(node for node in self.nodes if node not in inside)
        return tuple(group for group in (*named, rest) if group)

    @cached_property
    def _sides_by_node(self) -> dict[int, int]:
        return {node: side for side, group in enumerate(self._sides) for node in group}

    @cached_property
    def _concerned(self) -> frozenset[int]:
        """Devices that its detail names are concerned too, as the middle of a bridge."""
        return frozenset(self.nodes) | frozenset(self._sides_by_node)

    @property
    def _detail(self) -> str:
        """Its detail for people: devices as "0-29 | 30-59", other words without underlines."""
        if self._sides:
            return (" -> " if "->" in self.detail else " | ").join(map(devices_text, self._sides))
        return self.detail.replace("_", " ")

    def _meaning(self, node: int) -> str | None:
        if self.kind in OF_PROCESS or node not in self._concerned:
            return None
        if "->" in self.detail and self.kind in CUTS + JAMS:
            return self._one_way(node)
        if self.kind == "bridge" and len(self._sides) == 3:
            far = {0: self._sides[2], 2: self._sides[0]}.get(self.side_of(node))
            return f"cannot reach {devices_text(far)}" if far else "bridge: reaches all"
        if self.kind == "split":
            others = [one for one in self.nodes if self.side_of(one) != self.side_of(node)]
            return f"cannot reach {devices_text(others)}"
        return _said(self.kind, self._detail)

    def _one_way(self, node: int) -> str:
        origins, targets = self._sides
        late = " in time" if self.kind in JAMS else ""
        if self.side_of(node) == 0:
            return f"does not get through to {devices_text(targets)}{late}"
        return f"does not hear {devices_text(origins)}{late}"


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


def _said(kind: str, detail: str, *, where: str = "") -> str:
    words = WORDS.get(kind, kind.replace("_", " ")) + where
    return f"{words}: {detail}" if detail else words


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split() if part.isdecimal())


def shape_of(kind: str, nodes: str, detail: str) -> FaultShape:
    """Return the shape of a fault, as its trace lines have it."""
    return FaultShape(kind, _numbers(nodes), detail)
