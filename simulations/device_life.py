"""What a trace says of one device: how its process fared, whom it was linked to and doubted."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from simulations.disk import DiskFate
from simulations.doubts import Doubts
from simulations.trace_lines import TraceLine

# What a node says of itself that explains what it does next.
REMARKS: Mapping[str, str] = MappingProxyType(
    {
        "store.failed": "store failed",
        "incarnation.raised": "incarnation raised",
        "lease.ran_out": "lease ran out",
        "result.refused": "result refused",
        "result.given_up": "result given up",
        "record.refused": "record refused",
    }
)


class Condition(enum.Enum):
    """How a process fares."""

    RUNNING = enum.auto()
    FROZEN = enum.auto()
    SUSPENDED = enum.auto()
    DOWN = enum.auto()
    DISK_LOST = enum.auto()


@dataclass(frozen=True, slots=True)
class Stretch:
    """From `start_us` until the next stretch begins. `words` say what a colour does not."""

    start_us: int
    condition: Condition
    words: str


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A device learned that it is linked to a peer, or no longer."""

    time_us: int
    peer: str  # the beginning of its id
    is_up: bool
    reason: str


@dataclass(slots=True)
class DeviceLife:
    """One device of a run."""

    node: int
    stretches: list[Stretch] = field(default_factory=list)
    link_counts: list[tuple[int, int]] = field(default_factory=list)  # (from when, how many)
    link_changes: list[LinkChange] = field(default_factory=list)
    remarks: list[tuple[int, str]] = field(default_factory=list)
    doubts: Doubts = field(default_factory=Doubts)
    _linked: dict[str, None] = field(default_factory=dict)
    _is_frozen: bool = False
    _is_suspended: bool = False

    @property
    def is_troubled(self) -> bool:
        """Whether its process did anything but run."""
        return len(self.stretches) > 1

    def on_line(self, line: TraceLine) -> None:
        """Take one of its lines; others than those that matter here change nothing.

        Raises BadTrace.
        """
        self.doubts.on_line(line)
        match line.event:
            case "process.started":
                self._is_frozen = self._is_suspended = False
                self._begin(line, Condition.RUNNING, _started(line, self.stretches))
            case "process.crashed":
                self._on_crashed(line)
            case "process.frozen" | "process.thawed":
                self._is_frozen = line.event == "process.frozen"
                self._on_stall(line)
            case "device.suspended" | "device.resumed":
                self._is_suspended = line.event == "device.suspended"
                self._on_stall(line)
            case "event.LinkUp":
                self._on_link(line, is_up=True)
            case "event.LinkDown":
                self._on_link(line, is_up=False)
            case event if event in REMARKS:
                self.remarks.append((line.time_us, REMARKS[event]))

    def _begin(self, line: TraceLine, condition: Condition, words: str) -> None:
        self.stretches.append(Stretch(line.time_us, condition, words))

    def _on_stall(self, line: TraceLine) -> None:
        """A stall ends, and another one may last."""
        if self.stretches and self.stretches[-1].condition in (Condition.DOWN, Condition.DISK_LOST):
            return
        if self._is_suspended:
            self._begin(line, Condition.SUSPENDED, "suspended")
        elif self._is_frozen:
            self._begin(line, Condition.FROZEN, "frozen")
        else:
            self._begin(line, Condition.RUNNING, "runs on")

    def _on_crashed(self, line: TraceLine) -> None:
        if line.text("disk") == DiskFate.LOSE_ALL:
            self._begin(line, Condition.DISK_LOST, "down, disk lost")
        else:
            has_power = line.fields.get("loses_power") is not True
            self._begin(line, Condition.DOWN, "down" if has_power else "down, no power")
        self._linked.clear()
        self.link_counts.append((line.time_us, 0))

    def _on_link(self, line: TraceLine, *, is_up: bool) -> None:
        peer = line.text("peer")
        if (peer in self._linked) is is_up:
            return
        if is_up:
            self._linked[peer] = None
        else:
            del self._linked[peer]
        self.link_counts.append((line.time_us, len(self._linked)))
        self.link_changes.append(LinkChange(line.time_us, peer, is_up, line.text("reason")))


def _started(line: TraceLine, before: list[Stretch]) -> str:
    if not before:
        return "runs"
    boot = f"boot {line.number('boot')}"
    was_lost = before[-1].condition is Condition.DISK_LOST
    return f"{boot}, with an empty disk" if was_lost else boot
