"""What a trace says of whom a device holds for degraded or dead, from when to when, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulations.trace_lines import TraceLine

_IS_DEAD = {"member.degraded": False, "member.dead": True}


@dataclass(slots=True)
class Doubt:
    """A device holds another for degraded or dead; no end: it still does when the trace ends."""

    peer: str  # the beginning of its id
    is_dead: bool
    reason: str
    start_us: int
    end_us: int | None = None


@dataclass(slots=True)
class Doubts:
    """All doubts of one device, in the order in which they began; of a peer, one at a time."""

    all: list[Doubt] = field(default_factory=list)
    _lasting: dict[str, Doubt] = field(default_factory=dict)  # by peer

    def on_line(self, line: TraceLine) -> None:
        """Take a line of the device; others than those that matter here change nothing.

        Raises BadTrace if the line names no peer as it should.
        """
        match line.event:
            case "member.degraded" | "member.dead":
                self._on_doubt(line, line.peer("peer_id"), is_dead=_IS_DEAD[line.event])
            case "member.alive":
                self._end(line, line.peer("peer_id"))
            case "process.started" | "process.crashed":  # a process begins without any
                for peer in list(self._lasting):
                    self._end(line, peer)

    def _on_doubt(self, line: TraceLine, peer: str, *, is_dead: bool) -> None:
        before = self._lasting.get(peer)
        if before is not None and before.is_dead is is_dead:
            return
        self._end(line, peer)
        doubt = self._lasting[peer] = Doubt(peer, is_dead, line.text("reason"), line.time_us)
        self.all.append(doubt)

    def _end(self, line: TraceLine, peer: str) -> None:
        doubt = self._lasting.pop(peer, None)
        if doubt is not None:
            doubt.end_us = line.time_us
