"""Results of a task that several devices run: kept until enough are equal, then one is proposed.

A device that differs from the majority gave a wrong result, and its standing says so. When nobody
else can be asked for a while, what is here decides a dispute: a task is never kept for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.agreement import Answer, Comparison, Ruling, Tally
from scheduler.batch import Batch, TaskProgress
from scheduler.leasing import REMOVED, Leasing
from scheduler.register import Register
from scheduler.standing import Standings
from scheduler.states import TaskEvent, TaskState
from scheduler.stewardship import Stewardship
from telemetry.breaker import ProbeEnd
from wire.effects import Effect, Offer, SetTimer, Trace
from wire.ids import BatchId, PeerId
from wire.tasks import OutcomeKind

COMPARED_BYTES_MAX = 64 << 20  # of results that wait for others; then no task gets its first
PATIENCE_US = 30_000_000


@dataclass(frozen=True, slots=True)
class PatienceOver:
    """Timer: see whether a task still waits for a device to compare with."""

    batch: BatchId
    index: int


@dataclass(slots=True, kw_only=True)
class Comparing:
    """The comparisons of this steward's tasks; what is decided waits for the end of the tick."""

    office: Stewardship
    register: Register
    leasing: Leasing
    standings: Standings
    # What is proposed at the end of the tick: a result, and equal ones of others.
    _chosen: dict[tuple[BatchId, int], tuple[Answer, list[Answer]]] = field(default_factory=dict)
    _compared: dict[tuple[BatchId, int], int] = field(default_factory=dict)  # bytes of each task
    _compared_bytes: int = 0

    def has_room(self, task: TaskProgress) -> bool:
        """Say whether a result may be taken: the first of a task only while there is room."""
        is_first = task.runs_wanted > 1 and task.comparison is None
        return not is_first or self._compared_bytes < COMPARED_BYTES_MAX

    def on_checked(self, batch: Batch, one: Answer, *, now_us: int) -> list[Effect]:
        """Propose a result at the end of the tick, or keep it until others are here."""
        index, contract = one.result.index, batch.contract.body
        task, place = batch.progress[index], (batch.batch, index)
        if place in self._chosen:
            return []
        if task.comparison is None:
            if contract.quorum == 1:
                self._chosen[place] = one, []
                return []
            tally = Tally[PeerId](equal_wanted=contract.quorum, runs_wanted=task.runs_wanted)
            task.comparison = Comparison(tally=tally)
        begun: list[Effect] = []
        if place not in self._compared:
            begun.append(SetTimer(PatienceOver(*place), PATIENCE_US))
        size_bytes = len(one.proven.received)
        self._compared[place] = self._compared.get(place, 0) + size_bytes
        self._compared_bytes += size_bytes
        ruling = task.comparison.add(one)
        return begun + self._on_ruling(batch, index, task.comparison, ruling, now_us=now_us)

    def on_patience_over(self, over: PatienceOver, *, now_us: int) -> list[Effect]:
        """Go on with what is here if nobody is at the task."""
        batch = self.office.batch(over.batch)
        task = None if batch is None else batch.progress[over.index]
        if batch is None or task is None or task.comparison is None or not task.is_open:
            self._forget(over.batch, over.index)
            return []
        again: list[Effect] = [SetTimer(over, PATIENCE_US)]
        if task.is_placing or self.leasing.leases.of_task(over.batch, over.index):
            return again
        ruling = task.comparison.tally.settle()
        if ruling is Ruling.OPEN:
            return again
        effects = self._on_ruling(batch, over.index, task.comparison, ruling, now_us=now_us)
        return effects + self.choose()

    def on_devices_removed(self, removed: frozenset[PeerId], *, now_us: int) -> list[Effect]:
        """Compare with nothing that devices brought which are out of the mesh."""
        effects: list[Effect] = []
        for batch_id, index in list(self._compared):
            batch = self.office.batch(batch_id)
            task = None if batch is None else batch.progress[index]
            if batch is None or task is None or task.comparison is None or not task.is_open:
                continue
            gone = removed & task.comparison.answers.keys()
            if not gone:
                continue
            left = [one for peer, one in task.comparison.answers.items() if peer not in gone]
            batch.start_over(index)
            if task.state in (TaskState.VERIFYING, TaskState.DISPUTED):
                batch.move(index, TaskEvent.RESULT_REFUSED, REMOVED)
            for _, granted in self.leasing.leases.of_task(batch_id, index):
                batch.engage(index, granted.executor)
            self.leasing.resume(batch, index)
            for one in left:
                batch.engage(index, one.result.executor)
                batch.move(index, TaskEvent.RESULT_OFFERED, "checking the result")
                effects += self.on_checked(batch, one, now_us=now_us)
            if task.lacks_runs:
                effects += self.leasing.wait_again(batch, index, None, REMOVED, now_us=now_us)
        return effects + self.choose()

    def choose(self) -> list[Effect]:
        """Propose what was decided since the last tick, at once what has lease and others alike."""
        chosen, self._chosen = self._chosen, {}
        groups: dict[tuple[bytes, tuple[PeerId, ...]], list[tuple[Answer, list[Answer]]]] = {}
        for one, others in chosen.values():
            by = tuple(other.result.executor for other in others)
            groups.setdefault((one.lease.received, by), []).append((one, others))
        effects: list[Effect] = []
        for group in groups.values():
            first = group[0][0]
            batch = self.office.batch(first.result.batch)
            if batch is None:
                continue
            blobs = (one.result.output.blob for one, _ in group)
            effects += [Offer(blob, batch.batch) for blob in blobs if blob is not None]
            results = {one.result.index: one.proven for one, _ in group}
            agreeing = {
                one.result.index: tuple(other.leased() for other in others) for one, others in group
            }
            effects += self.register.choose(batch, first.lease, results, agreeing)
        return effects

    def _on_ruling(
        self, batch: Batch, index: int, comparison: Comparison, ruling: Ruling, *, now_us: int
    ) -> list[Effect]:
        task, tally = batch.progress[index], comparison.tally
        match ruling:
            case Ruling.OPEN:
                return self._ask_more(batch, index, comparison, now_us=now_us)
            case Ruling.AGREED:
                agreeing = [comparison.answers[peer] for peer in tally.agreeing()]
                differing = [comparison.answers[peer] for peer in tally.differing()]
                count = tally.equal_wanted - 1
                self._chosen[batch.batch, index] = agreeing[0], agreeing[1 : 1 + count]
                if task.state is TaskState.DISPUTED:
                    text = f"results of {len(agreeing)} devices are equal, {len(differing)} differ"
                    batch.move(index, TaskEvent.RESULTS_AGREE, text)
                effects = self._blame(batch, differing, now_us=now_us)
            case Ruling.NO_MAJORITY:
                effects = self._fail(batch, index, f"no majority: {comparison.text}")
            case Ruling.NOT_COMPARABLE:
                first = next(iter(comparison.answers.values())).result.status
                text = f"no quorum: {len(comparison.answers)} devices say {first}, "
                effects = self._fail(batch, index, text + "which is never compared")
        self._forget(batch.batch, index)
        return effects

    def _ask_more(
        self, batch: Batch, index: int, comparison: Comparison, *, now_us: int
    ) -> list[Effect]:
        task = batch.progress[index]
        batch.want_runs(index, comparison.tally.runs_wanted)
        if comparison.tally.is_disputed and task.state is TaskState.VERIFYING:
            batch.move(index, TaskEvent.RESULTS_DIFFER)
        task.reason = task.said("other devices run it")
        effects = self.office.on_changed(batch, (index,))
        if not task.lacks_runs:
            return effects
        return effects + self.leasing.wait_again(batch, index, None, task.reason, now_us=now_us)

    def _blame(self, batch: Batch, differing: list[Answer], *, now_us: int) -> list[Effect]:
        effects: list[Effect] = []
        for one in differing:
            executor = one.result.executor
            kind = batch.task_kind
            effects += self.standings.on_dispute(executor, task_kind=kind, now_us=now_us)
            effects += self.standings.on_lease_ended(
                executor, one.ref, ProbeEnd.DEVICE_FAILED, task_kind=kind, now_us=now_us
            )
            fields = {"batch": one.result.batch.hex(), "executor": executor.hex()}
            effects.append(Trace("result.wrong", {**fields, "index": one.result.index}))
        return effects

    def _forget(self, batch: BatchId, index: int) -> None:
        self._compared_bytes -= self._compared.pop((batch, index), 0)

    def _fail(self, batch: Batch, index: int, reason: str) -> list[Effect]:
        return self.register.close(batch, OutcomeKind.FAILED, {index: reason})
