"""What waits for a process that is busy, stalled or asleep, in the order of the daemon's mailbox.

First the effects whose rows are durable now, then timers that are due, then everything else as it
came (`meshd.mailbox`). So a process that was stalled hears of its timers before it hears what
others had sent it meanwhile: to the node it looks as if everybody else had been silent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from simulations.timers import Timer
from wire.effects import Effect
from wire.events import Event

MAILBOX_EVENTS_MAX = 1_024  # as many wait in the daemon before its links take in no more


class Backlog:
    """Everything that waits for one node."""

    def __init__(self) -> None:
        self.durable: deque[Sequence[Effect]] = deque()
        self.timers: deque[Timer] = deque()
        self.events: deque[Event] = deque()

    def __len__(self) -> int:
        """How much waits."""
        return len(self.durable) + len(self.timers) + len(self.events)

    def clear(self) -> None:
        """Forget it all: the process died."""
        self.durable.clear()
        self.timers.clear()
        self.events.clear()
