"""The batches a steward keeps: those at work, and the latest of those that are finished."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.batch import Batch, DecisionRow
from wire.ids import BatchId

UNDECIDED_TASKS_MAX = 20_000
UNDECIDED_INLINE_BYTES_MAX = 64 << 20
FINISHED_BATCHES_MAX = 1_000
FINISHED_TASKS_MAX = 50_000


@dataclass(slots=True)
class Ledger:
    """All batches by their id, in the order in which they came."""

    batches: dict[BatchId, Batch] = field(default_factory=dict)
    undecided: dict[BatchId, Batch] = field(default_factory=dict)
    undecided_tasks_count: int = 0
    inline_bytes: int = 0
    _finished: dict[BatchId, int] = field(default_factory=dict)
    _finished_tasks_count: int = 0

    def add(self, batch: Batch) -> None:
        """Keep a new batch."""
        self.batches[batch.batch] = self.undecided[batch.batch] = batch
        self.undecided_tasks_count += batch.undecided_count
        self.inline_bytes += batch.inline_bytes

    def decide(self, row: DecisionRow) -> list[int]:
        """Take up a durable decision; return the indices that were not decided before."""
        batch = self.batches[row.batch]
        fresh = batch.decide(row)
        self.undecided_tasks_count -= len(fresh)
        if fresh and batch.is_decided:
            self.inline_bytes -= batch.inline_bytes
            del self.undecided[batch.batch]
            self._finished[batch.batch] = len(batch.progress)
            self._finished_tasks_count += len(batch.progress)
        return fresh

    def give_up(self, batch: Batch) -> None:
        """Forget an undecided batch."""
        del self.batches[batch.batch], self.undecided[batch.batch]
        self.undecided_tasks_count -= batch.undecided_count
        self.inline_bytes -= batch.inline_bytes

    def retire(self) -> list[Batch]:
        """Forget finished batches, those that finished first, until both bounds are kept.

        An undecided batch is never forgotten.
        """
        retired: list[Batch] = []
        while (
            len(self._finished) > FINISHED_BATCHES_MAX
            or self._finished_tasks_count > FINISHED_TASKS_MAX
        ):
            oldest = next(iter(self._finished))
            self._finished_tasks_count -= self._finished.pop(oldest)
            retired.append(self.batches.pop(oldest))
        return retired
