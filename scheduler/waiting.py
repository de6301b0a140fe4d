"""The batches with tasks that wait for a device, and when they are looked at next.

Urgent batches come first; those of one priority take turns, a chunk each, so that a batch of a
thousand tasks does not keep a later one of a single task waiting.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from scheduler.batch import Batch
from wire.effects import Effect, SetTimer
from wire.ids import BatchId

TURNS_MAX = 64
PRIORITIES = (2, 1, 0)


@dataclass(frozen=True, slots=True)
class PlacementReview:
    """Timer: offer what is waiting."""


def _queues() -> dict[int, OrderedDict[BatchId, Batch]]:
    return {priority: OrderedDict() for priority in PRIORITIES}


@dataclass(slots=True)
class WaitingBatches:
    """A queue for each priority, and the one timer for all of them."""

    _queues: dict[int, OrderedDict[BatchId, Batch]] = field(default_factory=_queues)
    _due_us: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, batch: Batch) -> None:
        """Give a batch that this device leads a place in the queue unless it has one."""
        if batch.waiting_count and batch.is_leading:
            self._queues[batch.contract.body.priority].setdefault(batch.batch, batch)

    def turns(self) -> Iterator[Batch]:
        """Yield the batches whose turn it is, TURNS_MAX of a priority.

        Those that are `served` go to the end. When there are too many to look at all of them, the
        others do too.
        """
        for queue in self._queues.values():
            are_many = len(queue) > TURNS_MAX
            for batch in list(islice(queue.values(), TURNS_MAX)):
                if not batch.waiting_count or not batch.is_leading:
                    del queue[batch.batch]
                    continue
                if are_many:
                    queue.move_to_end(batch.batch)
                yield batch

    def served(self, batch: Batch) -> None:
        """A batch had its turn: the others come first."""
        self._queues[batch.contract.body.priority].move_to_end(batch.batch)

    def review_in(self, after_us: int, *, now_us: int) -> list[Effect]:
        """Return the timer of the next review, unless one is due no later."""
        due_us = now_us + after_us
        if self._due_us is not None and self._due_us <= due_us:
            return []
        self._due_us = due_us
        return [SetTimer(PlacementReview(), after_us)]

    def on_review_begins(self) -> None:
        """The timer has run out."""
        self._due_us = None
