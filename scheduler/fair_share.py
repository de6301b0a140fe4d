"""How an executor's task slots are shared while several submitters want them.

As long as nobody is kept waiting, one submitter may have all slots. While another one was refused
for lack of room a moment ago, nobody gets more than an equal part of them: the slots that come free
go to those who have less. Nothing that runs is stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wire.ids import PeerId

# Twice as long as a steward waits before it asks a device again that had no room.
WANTED_US = 1_200_000
SUBMITTERS_MAX = 256


@dataclass(slots=True, kw_only=True)
class FairShare:
    """Who was refused for lack of room a moment ago: SUBMITTERS_MAX at most, the last to be."""

    task_slots: int
    _refused_us: dict[PeerId, int] = field(default_factory=dict)

    def slots_of(self, submitter: PeerId, held: Mapping[PeerId, int], *, now_us: int) -> int:
        """Return how many slots a submitter may have in all; `held` are those that are taken."""
        waiting = {
            peer
            for peer, refused_us in self._refused_us.items()
            if now_us - refused_us < WANTED_US and peer != submitter
        }
        if not waiting:
            return self.task_slots
        others = waiting | {peer for peer, count in held.items() if count and peer != submitter}
        return max(1, self.task_slots // (len(others) + 1))

    def on_refused(self, submitter: PeerId, held: Mapping[PeerId, int], *, now_us: int) -> None:
        """There was no room: whoever has less than a part is waited for."""
        if held.get(submitter, 0) >= self.slots_of(submitter, held, now_us=now_us):
            return
        self._refused_us.pop(submitter, None)
        self._refused_us[submitter] = now_us
        if len(self._refused_us) > SUBMITTERS_MAX:
            del self._refused_us[next(iter(self._refused_us))]

    def on_accepted(self, submitter: PeerId) -> None:
        """It got something."""
        self._refused_us.pop(submitter, None)
