"""The steward's side of leases: granting them, and what becomes of their tasks when they end.

An executor is judged once for each thing it shows: a task it did, a task it could not do, a lease
it let run out. A lease that ends because a task is decided elsewhere shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.batch import Batch, TaskProgress
from scheduler.hedging import Hedging
from scheduler.lease_history import DONE
from scheduler.leases import Granted, GrantedLeaseEnds, LeaseBook
from scheduler.register import Register
from scheduler.standing import Standings
from scheduler.states import TaskEvent, TaskState
from scheduler.stewardship import Stewardship
from scheduler.waiting import WaitingBatches
from telemetry.breaker import ProbeEnd
from telemetry.measurement import ANY_KIND
from wire.effects import Effect, Send, Trace
from wire.execution import ExecutionFailure
from wire.ids import PeerId
from wire.messages import LeaseEnded, LeaseGranted, LeaseProgress, LeaseRef
from wire.signed import sign
from wire.tasks import Lease, OutcomeKind

RUN_OUT = "its device was not heard for a lease"
REMOVED = "its device may not run tasks any more"
DECIDED = "the task is decided"

# The module itself is at fault: a second device that says so, or this one, settles it.
MODULE_FAULT_WITNESSES = 2
_LEASED = (TaskState.ASSIGNED, TaskState.EXECUTING)


@dataclass(slots=True, kw_only=True)
class Leasing:
    """The leases of this steward's tasks."""

    office: Stewardship
    register: Register
    waiting: WaitingBatches
    standings: Standings
    leases: LeaseBook
    hedging: Hedging = field(init=False)

    def __post_init__(self) -> None:
        """Hedge what is leased."""
        self.hedging = Hedging(office=self.office, waiting=self.waiting, leases=self.leases)

    def grant(
        self, offer: int, batch: Batch, executor: PeerId, indices: tuple[int, ...], *, now_us: int
    ) -> list[Effect]:
        """Lease waiting tasks to a device whose standing allows it."""
        office = self.office
        batch.leases_count += 1
        ref = LeaseRef(batch.batch, batch.epoch, batch.leases_count)
        box = office.signer.seal(office.signer.unseal(batch.own_key(office.own)), executor)
        lease = Lease(
            batch=batch.batch,
            indices=indices,
            executor=executor,
            store=office.store,
            epoch=ref.epoch,
            attempt=ref.attempt,
            duration_us=self.leases.lease_us,
            key=box,
        )
        effects = self.leases.grant(ref, executor, indices, now_us=now_us)
        batch.lease_history.on_granted(ref, executor, indices, wall_us=office.wall_us())
        effects += batch.lease_history.written(batch.batch)
        self.standings.on_lease_granted(executor, ref, now_us=now_us)
        for index in indices:
            task = batch.progress[index]
            task.attempts += 1
            task.executor = executor
            batch.engage(index, executor)
            batch.move(index, TaskEvent.LEASED, task.said("leased"))
            effects += office.on_changed(batch, (index,))
        granted = LeaseGranted(
            offer=offer,
            lease=sign(lease, office.signer),
            contract=batch.contract,
            tasks=tuple(batch.proven(index) for index in indices),
            moves=batch.moves,
        )
        trace = Trace(
            "lease.granted",
            {"batch": batch.batch.hex(), "executor": executor.hex(), "tasks": len(indices)},
        )
        # A lease only saves work, so it may leave before anything is durable.
        return [*effects, Send(executor, granted), trace]

    def on_progress(
        self, executor: PeerId, progress: LeaseProgress, *, now_us: int
    ) -> list[Effect]:
        """Renew the leases; those that are over are said to be."""
        effects: list[Effect] = []
        for ref in progress.leases:
            granted = self.leases.renew(ref, executor, now_us=now_us)
            if granted is not None:
                effects += self._started(ref, granted)
            elif not self._is_late_work(ref):
                over = LeaseEnded(lease=ref, indices=(), reason="the lease is over")
                effects.append(Send(executor, over))
        return effects

    def on_run_out(self, ends: GrantedLeaseEnds, *, now_us: int) -> list[Effect]:
        """An executor was silent for a whole lease: its tasks go elsewhere."""
        granted, effects = self.leases.on_timer_due(ends, now_us=now_us)
        if granted is None:
            return effects
        return self.give_back(
            ends.lease, granted, granted.indices, RUN_OUT, ProbeEnd.DEVICE_FAILED, now_us=now_us
        )

    def on_ended(self, executor: PeerId, ended: LeaseEnded, *, now_us: int) -> list[Effect]:
        """The executor gives tasks back: it could not run them, or it does not want them."""
        granted = self.leases.of(ended.lease, executor)
        if granted is None:
            return []
        fault = _fault(ended.reason) if ended.indices else None
        blames_device = fault is not None and fault.is_of_device
        end = ProbeEnd.DEVICE_FAILED if blames_device else ProbeEnd.INCONCLUSIVE
        indices = granted.indices.intersection(ended.indices or granted.indices)
        is_failure = fault is not None
        return self.give_back(
            ended.lease, granted, indices, ended.reason, end, is_failure=is_failure, now_us=now_us
        )

    def on_devices_removed(self, removed: frozenset[PeerId], *, now_us: int) -> list[Effect]:
        """End the leases of devices that are out of the mesh: that is no failure of their tasks."""
        end = ProbeEnd.INCONCLUSIVE
        return [
            effect
            for ref, granted in self.leases.out_to(removed)
            for effect in self.give_back(
                ref, granted, granted.indices, REMOVED, end, is_failure=False, now_us=now_us
            )
        ]

    def give_back(
        self,
        ref: LeaseRef,
        granted: Granted,
        indices: Iterable[int],
        reason: str,
        end: ProbeEnd,
        *,
        is_failure: bool = True,
        now_us: int,
    ) -> list[Effect]:
        """End the lease of some tasks: they wait for a device again, or have failed for good.

        What an executor merely did not want is no failure and spends no retry.
        """
        ended = sorted(index for index in list(indices) if self.end_task(ref, index, reason))
        effects: list[Effect] = []
        batch = self.office.batch(ref.batch)
        kind = ANY_KIND if batch is None else batch.task_kind
        if ended and (end is not ProbeEnd.INCONCLUSIVE or ref not in self.leases):
            effects += self.standings.on_lease_ended(
                granted.executor, ref, end, task_kind=kind, now_us=now_us
            )
        if batch is None:
            return effects
        if ended:
            effects += batch.lease_history.written(batch.batch)
        for index in ended:
            self.disengage(batch, index, granted.executor)
            task = batch.progress[index]
            if task.is_hedged and task.comparison is None:
                batch.hedge_no_more(index)
                self.hedging.on_over(batch, (index,), now_us=now_us)
            if task.lacks_runs:  # else another device's result is here, or it is decided
                text = task.said(f"waiting for a device again: {reason}")
                batch.move(index, TaskEvent.LEASE_OVER, text)
                self.resume(batch, index)
                blamed = granted.executor if is_failure else None
                effects += self.wait_again(batch, index, blamed, reason, now_us=now_us)
        return effects

    def wait_again(
        self, batch: Batch, index: int, blamed: PeerId | None, reason: str, *, now_us: int
    ) -> list[Effect]:
        """Put a task back into the queue, or let it fail if there is no hope."""
        task = batch.progress[index]
        if task.state is TaskState.PENDING:
            task.executor = None
        if blamed is not None:
            task.failures += 1
            task.failed_on = task.failed_on or {}
            task.failed_on.pop(blamed, None)
            task.failed_on[blamed] = reason  # the last to fail is the last
            verdict = self._hopeless(batch, task)
            is_spot_check = task.comparison is not None and task.comparison.is_spot_check
            if verdict is not None and is_spot_check:  # its result is there
                batch.want_runs(index, len(task.engaged))
                return self.office.on_changed(batch, (index,))
            if verdict is not None:
                return self.register.close(batch, OutcomeKind.FAILED, {index: verdict})
        self.waiting.put(batch)
        effects = self.office.on_changed(batch, (index,))
        return effects + self.waiting.review_in(0, now_us=now_us)

    def end_task(self, ref: LeaseRef, index: int, reason: str = DONE) -> bool:
        """Say whether a task was under a lease, and end that; note how the lease ended with it."""
        granted = self.leases.under(ref)
        is_ended = self.leases.end_task(ref, index)
        batch = self.office.batch(ref.batch)
        if is_ended and granted is not None and batch is not None and ref not in self.leases:
            wall_us = self.office.wall_us()
            batch.lease_history.on_over(ref, granted.executor, reason, wall_us=wall_us)
        return is_ended

    def disengage(self, batch: Batch, index: int, executor: PeerId) -> None:
        """Let a device have a task again, if it has neither a lease of it nor a result here."""
        comparison = batch.progress[index].comparison
        holders = [granted.executor for _, granted in self.leases.of_task(batch.batch, index)]
        if executor not in holders and (comparison is None or executor not in comparison.answers):
            batch.disengage(index, executor)

    def resume(self, batch: Batch, index: int) -> None:
        """Go back to a lease that a pending task is still under, if there is one."""
        task = batch.progress[index]
        under = self.leases.of_task(batch.batch, index)
        if task.state is not TaskState.PENDING or not under:
            return
        started = [granted for _, granted in under if granted.is_started]
        batch.move(index, TaskEvent.LEASED, "leased")
        if started:
            batch.move(index, TaskEvent.STARTED, "running")
        task.executor = (started or [granted for _, granted in under])[0].executor

    def call_off(self, batch: Batch, indices: Iterable[int], *, now_us: int) -> list[Effect]:
        """Tell whoever works on tasks that they are decided."""
        decided: dict[LeaseRef, tuple[PeerId, list[int]]] = {}
        for index in indices:
            for ref, granted in self.leases.of_task(batch.batch, index):
                decided.setdefault(ref, (granted.executor, []))[1].append(index)
                self.end_task(ref, index, DECIDED)
        effects: list[Effect] = []
        for ref, (executor, ended) in decided.items():
            effects += self.over_without_proof(executor, ref, now_us=now_us)
            over = LeaseEnded(lease=ref, indices=tuple(ended), reason=DECIDED)
            effects.append(Send(executor, over))
        return effects

    def stand_down(self, batch: Batch, reason: str, *, now_us: int) -> list[Effect]:
        """Forget the leases of a batch that another steward leads now: results still count."""
        effects: list[Effect] = []
        for index, task in enumerate(batch.progress):
            for ref, granted in self.leases.of_task(batch.batch, index):
                self.end_task(ref, index, reason)
                effects += self.over_without_proof(granted.executor, ref, now_us=now_us)
            if task.decided is not None:
                continue
            self.hedging.on_over(batch, (index,), now_us=now_us)
            batch.start_over(index)
            if task.state in (TaskState.VERIFYING, TaskState.DISPUTED):
                batch.move(index, TaskEvent.RESULT_REFUSED)
            elif task.state in _LEASED:
                batch.move(index, TaskEvent.LEASE_OVER)
            task.reason, task.executor = reason, None
        effects += batch.lease_history.written(batch.batch)
        return effects + self.office.on_changed(batch, batch.open_indices())

    def over_without_proof(self, executor: PeerId, ref: LeaseRef, *, now_us: int) -> list[Effect]:
        """If a lease is over and showed nothing of its device, let the next lease do so."""
        if ref in self.leases:
            return []
        return self.standings.on_lease_ended(executor, ref, ProbeEnd.INCONCLUSIVE, now_us=now_us)

    def _started(self, ref: LeaseRef, granted: Granted) -> list[Effect]:
        batch = self.office.batch(ref.batch)
        if granted.is_started or batch is None:
            return []
        granted.is_started = True
        effects: list[Effect] = []
        for index in sorted(granted.indices):
            if batch.progress[index].state is TaskState.ASSIGNED:  # else a result was quicker
                batch.move(index, TaskEvent.STARTED, "running")
                effects += self.office.on_changed(batch, (index,))
        return effects

    def _is_late_work(self, ref: LeaseRef) -> bool:
        """Whether a lease of before this start may still bring results that are wanted."""
        batch = self.office.batch(ref.batch)
        return batch is not None and not batch.is_decided and ref.epoch < batch.epoch

    def _hopeless(self, batch: Batch, task: TaskProgress) -> str | None:
        failed_on = task.failed_on or {}
        witnesses = {
            peer: reason
            for peer, reason in failed_on.items()
            if (fault := _fault(reason)) is not None and fault.is_of_module
        }
        if len(witnesses) >= MODULE_FAULT_WITNESSES or self.office.own in witnesses:
            return next(reversed(witnesses.values()))
        if task.failures > batch.contract.body.retries_max:
            last = next(reversed(failed_on.values()))
            return f"retries spent after {task.failures} failures: {last}"
        return None


def _fault(reason: str) -> ExecutionFailure | None:
    """Return what an executor says was in the way, in the words of LeaseEnded."""
    try:
        return ExecutionFailure(reason.split(":", 1)[0])
    except ValueError:
        return None
