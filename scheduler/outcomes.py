"""How tasks end: cancelled, late, or decided on disk and then told to everybody."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.batch import Batch, DecisionRow
from scheduler.comparing import Comparing
from scheduler.leasing import Leasing
from scheduler.placement import Placements
from scheduler.register import Register
from scheduler.standing import Standings
from scheduler.stewardship import Stewardship
from scheduler.waiting import WaitingBatches
from wire.effects import Effect, Send, SetTimer
from wire.ids import BatchId
from wire.messages import LeaseRef, Settled
from wire.tasks import OutcomeKind


@dataclass(frozen=True, slots=True)
class DeadlineDue:
    """Timer: what is not decided now fails."""

    batch: BatchId


@dataclass(slots=True, kw_only=True)
class Outcomes:
    """Ends tasks."""

    office: Stewardship
    register: Register
    leasing: Leasing
    waiting: WaitingBatches
    placements: Placements
    standings: Standings
    comparing: Comparing
    _is_time_known: bool = False

    def on_cancel(self, batch: Batch, index: int) -> list[Effect]:
        """Decide Cancelled, unless the task is decided or about to be."""
        reasons = {index: "cancelled by its submitter"}
        return self.register.close(batch, OutcomeKind.CANCELLED, reasons)

    def deadline(self, batch: Batch) -> Effect:
        """Return the timer of a batch's deadline, which counts from its submission.

        While the wall clock is not known, or was not then, it counts from now.
        """
        wall_us, submitted_us = self.office.wall_us(), batch.submitted_wall_us
        elapsed_us = max(0, wall_us - submitted_us) if wall_us and submitted_us else 0
        left_us = max(0, batch.contract.body.deadline_us - elapsed_us)
        return SetTimer(DeadlineDue(batch.batch), left_us)

    def on_wall_clock_read(self) -> list[Effect]:
        """The time is known for the first time: batches of before this start may be late."""
        if self._is_time_known or not self.office.wall_us():
            return []
        self._is_time_known = True
        return [
            self.deadline(batch)
            for batch in self.office.ledger.undecided.values()
            if batch.is_durable and batch.is_leading and batch.submitted_wall_us
        ]

    def on_deadline_due(self, due: DeadlineDue) -> list[Effect]:
        """What is not decided by now fails."""
        batch = self.office.batch(due.batch)
        if batch is None or not batch.is_leading:
            return []
        effects = self.comparing.on_deadline(batch)
        late = {
            index: f"deadline passed while {task.state}: {task.reason}"
            for index, task in enumerate(batch.progress)
            if task.is_open
        }
        return effects + self.register.close(batch, OutcomeKind.FAILED, late)

    def on_decided(self, row: DecisionRow, *, now_us: int) -> list[Effect]:
        """Tell everybody: those who wait here, the executor, and whoever else is at it."""
        effects: list[Effect] = []
        batch = self.office.ledger.batches[row.batch]
        compared = [batch.progress[index].comparison for index in row.outcomes]
        ran = {peer for one in compared if one is not None for peer in one.answers}
        fresh = self.office.ledger.decide(row)
        for one in (one for others in row.agreeing.values() for one in others):
            if one.lease.signer == self.office.own and fresh:
                lease = one.lease.body
                ref = LeaseRef(lease.batch, lease.epoch, lease.attempt)
                self.standings.on_valid(lease.executor, checked_count=1, unchecked_count=0)
                effects += self.standings.on_results_kept(
                    lease.executor, ref, count=1, task_kind=batch.task_kind, now_us=now_us
                )
        if row.lease is not None and fresh:
            lease = row.lease.body
            ref = LeaseRef(lease.batch, lease.epoch, lease.attempt)
            for index in fresh:
                self.leasing.end_task(ref, index)
            if row.lease.signer == self.office.own:
                checked_count = len(row.agreeing.keys() & set(fresh))
                self.standings.on_valid(
                    lease.executor,
                    checked_count=checked_count,
                    unchecked_count=len(fresh) - checked_count,
                )
                effects += self.standings.on_results_kept(
                    lease.executor,
                    ref,
                    count=len(fresh),
                    task_kind=batch.task_kind,
                    now_us=now_us,
                )
            self.placements.on_room(lease.executor)
            if batch.is_leading:
                settled = Settled(batch=batch.batch, outcomes={**row.outcomes})
                effects += [Send(peer, settled) for peer in sorted({lease.executor, *ran})]
        self.leasing.hedging.on_over(batch, fresh, now_us=now_us)
        effects += self.comparing.on_decided(batch.batch, fresh, now_us=now_us)
        effects += self.register.prune(batch)
        effects += self.leasing.call_off(batch, fresh, now_us=now_us)
        effects += self.office.on_changed(batch, fresh)
        if batch.is_decided:
            self.placements.forget(batch.batch)
            effects += batch.lease_history.shelved(batch.batch)
        if len(self.waiting):
            effects += self.waiting.review_in(0, now_us=now_us)
        return effects
