"""A second attempt for stragglers, within a budget (Dean and Barroso 2013, *The Tail at Scale*).

A task that is with its device for longer than 95 % of those of its module were may be leased to a
second device. The first result counts, and the other attempt is called off. All the time that
second attempts take, and may take, is at most EXTRA_PERMILLE of the time of finished runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.batch import Batch
from scheduler.leases import Granted, LeaseBook
from scheduler.states import TaskState
from scheduler.stewardship import Stewardship
from scheduler.waiting import WaitingBatches
from wire.effects import Effect, SetTimer, Trace
from wire.ids import BatchId, Digest
from wire.tasks import Result

EXTRA_PERMILLE = 50
LOOK_EVERY_US = 1_000_000
EXPECTED_FROM = 10  # so many results of a module
REMEMBERED_MAX = 128
MODULES_MAX = 64
_PER_MILLE = 1_000


@dataclass(frozen=True, slots=True)
class HedgeDue:
    """Timer: see whether a task takes much longer than others did."""


@dataclass(frozen=True, slots=True)
class _Hedge:
    asked_us: int
    reserved_us: int
    attempts: int  # before


@dataclass(slots=True, kw_only=True)
class Hedging:
    """The second attempts of the tasks that this steward leads."""

    office: Stewardship
    waiting: WaitingBatches
    leases: LeaseBook
    hedges_count: int = 0
    run_us: int = 0  # of all results that came
    extra_us: int = 0  # of second attempts that are over
    _took_us: dict[Digest, deque[int]] = field(default_factory=dict)  # from the lease to the result
    _out: dict[tuple[BatchId, int], _Hedge] = field(default_factory=dict)
    _is_watching: bool = False

    def watch(self) -> list[Effect]:
        """Look at the leases that are out, once a second while there are any."""
        if self._is_watching or not len(self.leases):
            return []
        self._is_watching = True
        return [SetTimer(HedgeDue(), LOOK_EVERY_US)]

    def on_result(self, batch: Batch, result: Result, granted: Granted, *, now_us: int) -> None:
        """Note how long a task took under its lease."""
        self.run_us += result.wall_us
        module = batch.contract.body.module.digest
        took_us = self._took_us.pop(module, None) or deque(maxlen=REMEMBERED_MAX)
        self._took_us[module] = took_us  # the last that was used is the last
        took_us.append(now_us - granted.granted_us)
        if len(self._took_us) > MODULES_MAX:
            del self._took_us[next(iter(self._took_us))]

    def on_due(self, *, now_us: int) -> list[Effect]:
        """Ask for a second device for what takes too long, the oldest leases first."""
        self._is_watching = False
        effects: list[Effect] = []
        for ref, granted in self.leases.all():
            batch = self.office.batch(ref.batch)
            late_us = None if batch is None else self._late_after_us(batch)
            if batch is None or late_us is None or now_us - granted.granted_us <= late_us:
                continue
            for index in sorted(granted.indices):
                if self._is_alone(batch, index) and self._affords(late_us, now_us=now_us):
                    effects += self._hedge(batch, index, late_us, now_us=now_us)
        return effects + self.watch()

    def on_over(self, batch: Batch, indices: Iterable[int], *, now_us: int) -> None:
        """Tasks are decided, or one of two devices gave up: count what the second attempt took."""
        for index in indices:
            hedge = self._out.pop((batch.batch, index), None)
            if hedge is not None and batch.progress[index].attempts > hedge.attempts:
                self.extra_us += now_us - hedge.asked_us

    def _late_after_us(self, batch: Batch) -> int | None:
        """Return after how long a task is a straggler; None while too few others have ended."""
        took_us = self._took_us.get(batch.contract.body.module.digest, ())
        if not batch.is_leading or len(took_us) < EXPECTED_FROM:
            return None
        return max(LOOK_EVERY_US, sorted(took_us)[len(took_us) * 95 // 100])

    def _is_alone(self, batch: Batch, index: int) -> bool:
        task = batch.progress[index]
        is_at_work = task.state in (TaskState.ASSIGNED, TaskState.EXECUTING)
        return is_at_work and task.is_open and task.runs_wanted == len(task.engaged) == 1

    def _affords(self, reserve_us: int, *, now_us: int) -> bool:
        out_us = sum(max(one.reserved_us, now_us - one.asked_us) for one in self._out.values())
        spent_us = self.extra_us + out_us + reserve_us
        return spent_us * _PER_MILLE <= EXTRA_PERMILLE * self.run_us

    def _hedge(self, batch: Batch, index: int, reserve_us: int, *, now_us: int) -> list[Effect]:
        attempts = batch.progress[index].attempts
        self._out[batch.batch, index] = _Hedge(now_us, reserve_us, attempts)
        self.hedges_count += 1
        batch.hedge(index)
        self.waiting.put(batch)
        trace = Trace("task.hedged", {"batch": batch.batch.hex(), "index": index})
        return [trace, *self.waiting.review_in(0, now_us=now_us)]
