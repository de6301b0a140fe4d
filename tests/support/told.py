"""Traces made up for tests of what is read out of them: lines of devices, faults and tasks."""

from __future__ import annotations

from simulations.trace import WORLD, Field
from simulations.trace_lines import TraceLine
from wire.ids import PEER_ID_BYTES, PeerId, peer_text

S = 1_000_000


def peer(node: int) -> str:
    """Return the beginning of a device's id, as traces have it."""
    return f"{node + 10:012x}"


def whole_peer_text(node: int) -> str:
    """Return the text of a device's whole id, as nodes name members in their own words."""
    return peer_text(PeerId(bytes.fromhex(peer(node)).ljust(PEER_ID_BYTES, b"\0")))


class Telling:
    """A trace in the making; lines may be told in any order of time."""

    def __init__(self, *, node_count: int = 0) -> None:
        self._told: list[tuple[int, int, str, dict[str, Field]]] = []
        self._faults_count = 0
        for node in range(node_count):
            self.start(0, node)

    def line(self, time_us: int, node: int, event: str, **fields: Field) -> None:
        """Tell anything."""
        self._told.append((time_us, node, event, fields))

    def lines(self) -> list[TraceLine]:
        """Return the lines as a trace has them."""
        counts: dict[int, int] = {}
        found = []
        for time_us, node, event, fields in sorted(self._told, key=lambda told: told[:2]):
            counts[node] = counts.get(node, 0) + 1
            found.append(TraceLine(time_us, node, counts[node], event, fields))
        return found

    def start(self, time_us: int, node: int, *, boot: int = 1) -> None:
        """Tell that a process started."""
        self.line(time_us, node, "process.started", boot=boot)
        self.line(time_us, node, "device.named", peer=peer(node))

    def crash(self, time_us: int, node: int, *, disk: str = "keep", power: bool = True) -> None:
        """Tell that a process ended."""
        self.line(time_us, node, "process.crashed", disk=disk, loses_power=not power)

    def link(self, time_us: int, node: int, other: int, *, is_up: bool = True) -> None:
        """Tell that a device learned of a link, or of its end."""
        if is_up:
            self.line(time_us, node, "event.LinkUp", peer=peer(other))
        else:
            self.line(time_us, node, "event.LinkDown", peer=peer(other), reason="silent")

    def judge(self, time_us: int, node: int, other: int, verdict: str, reason: str = "") -> None:
        """Tell that a device holds another for alive, degraded or dead from then on."""
        peer_id = whole_peer_text(other)
        self.line(time_us, node, f"member.{verdict}", peer_id=peer_id, reason=reason or None)

    def fault(
        self, kind: str, nodes: str, detail: str = "", *, at: int, until: int | None = None
    ) -> None:
        """Tell of a fault, and of its end if it has one."""
        self._faults_count += 1
        fields: dict[str, Field] = {
            "fault": kind,
            "number": self._faults_count,
            "nodes": nodes,
            "detail": detail,
        }
        self.line(at, WORLD, "fault.begun", **fields)
        if until is not None:
            self.line(until, WORLD, "fault.ended", **fields)

    def accept(self, time_us: int, node: int, batch: str, *, count: int = 1) -> None:
        """Tell that a batch was accepted."""
        self.line(time_us, node, "batch.accepted", batch=batch, count=count)

    def lease(self, time_us: int, batch: str, indices: str, to: int, *, attempt: int = 1) -> None:
        """Tell that device 0 leased tasks."""
        fields: dict[str, Field] = {"batch": batch, "indices": indices, "attempt": attempt}
        self.line(time_us, 0, "task.leased", executor=peer(to), **fields)

    def begin(self, time_us: int, node: int, batch: str, index: int, *, attempt: int = 1) -> None:
        """Tell that a run began."""
        self.line(time_us, node, "run.begun", batch=batch, index=index, attempt=attempt)

    def end(
        self, time_us: int, node: int, batch: str, index: int, how: str, *, attempt: int = 1
    ) -> None:
        """Tell that a run ended."""
        fields: dict[str, Field] = {"batch": batch, "index": index, "attempt": attempt}
        self.line(time_us, node, "run.ended", how=how, **fields)

    def decide(self, time_us: int, batch: str, index: int, outcome: str = "result") -> None:
        """Tell that a task was decided."""
        self.line(time_us, WORLD, "task.decided", batch=batch, index=index, outcome=outcome)

    def tell(self, time_us: int, node: int, batch: str, index: int, *, decided: bool) -> None:
        """Tell that somebody was shown a task."""
        fields: dict[str, Field] = {"batch": batch, "index": index, "is_decided": decided}
        self.line(time_us, node, "answer.TaskView", **fields)
