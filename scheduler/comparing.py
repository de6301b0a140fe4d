"""Results of a task that several devices run: kept until enough are equal, then one is proposed.

A device that differs from the majority gave a wrong result, and its standing says so. When nobody
else can be asked for a while, what is here decides a dispute: a task is never kept for nothing.

Of results that nobody asked to compare some are compared all the same: spot checks. A result that
is not checked as nobody else can run it is proposed with that reason. One that waits for checks of
others of its device is checked itself if they take long: every wait here has a timer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.agreement import Answer, Comparison, Ruling, Tally
from scheduler.batch import Batch, TaskProgress
from scheduler.leasing import REMOVED, Leasing
from scheduler.register import Register
from scheduler.spot_checks import Draw, Lots, SpotChecks
from scheduler.standing import Standings
from scheduler.states import TaskEvent, TaskState
from scheduler.stewardship import Stewardship
from telemetry.breaker import ProbeEnd
from wire.convictions import CONVICTING_RESULTS, Conviction
from wire.effects import Effect, Offer, SetTimer, Trace
from wire.ids import BatchId, PeerId
from wire.tasks import OutcomeKind

COMPARED_BYTES_MAX = 64 << 20  # of results that wait for others; then no task gets its first
PATIENCE_US = 30_000_000
CHECK_PATIENCE_US = 10_000_000
HELD_PATIENCE_US = 60_000_000  # then a result that waits for checks of its device is checked
NOT_COMPARED = "not checked: a result that depends on its device is never compared"
UNCHECKED = "not checked: no other device could run it"


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
    checks: SpotChecks[PeerId]
    lots: Callable[[], Lots]
    convict: Callable[[Conviction], list[Effect]]
    has_partner: Callable[[Batch, int, int], bool]  # somebody else may run it, by the time
    # What is proposed at the end of the tick: a result, and equal ones of others.
    _chosen: dict[tuple[BatchId, int], tuple[Answer, list[Answer]]] = field(default_factory=dict)
    _compared: dict[tuple[BatchId, int], int] = field(default_factory=dict)  # bytes of each task
    _compared_bytes: int = 0
    _reasons: dict[tuple[BatchId, int], str] = field(default_factory=dict)  # of what is chosen
    # Whose result is checked, by task, and whose results wait for such checks.
    _checked: dict[tuple[BatchId, int], PeerId] = field(default_factory=dict)
    _held: dict[PeerId, list[Answer]] = field(default_factory=dict)

    def has_room(self, task: TaskProgress) -> bool:
        """Say whether a result may be taken: the first of a task only while there is room."""
        is_first = task.comparison is None
        return not is_first or self._compared_bytes < COMPARED_BYTES_MAX

    def on_checked(self, batch: Batch, one: Answer, *, now_us: int) -> list[Effect]:
        """Propose a result at the end of the tick, or keep it until others are here."""
        index, contract = one.result.index, batch.contract.body
        task, place = batch.progress[index], (batch.batch, index)
        if place in self._chosen:
            return []
        if task.comparison is None and contract.quorum == 1:
            # A check of before, if another steward led since: it is over and keeps nobody waiting.
            over = self._on_check_over(*place, now_us=now_us)
            return over + self._draw(batch, one, now_us=now_us)
        if task.comparison is None:
            tally = Tally[PeerId](equal_wanted=contract.quorum, runs_wanted=task.runs_wanted)
            task.comparison = Comparison(tally=tally)
        begun = self._keep(one, PATIENCE_US)
        ruling = task.comparison.add(one)
        return begun + self._on_ruling(batch, index, task.comparison, ruling, now_us=now_us)

    def on_patience_over(self, over: PatienceOver, *, now_us: int) -> list[Effect]:
        """Go on with what is here if nobody is at the task; check what waited for other checks."""
        batch = self.office.batch(over.batch)
        task = None if batch is None else batch.progress[over.index]
        if batch is None or task is None or task.comparison is None or not task.is_open:
            self._forget(over.batch, over.index)
            return self._on_check_over(over.batch, over.index, now_us=now_us) + self.choose()
        comparison = task.comparison
        patience_us = CHECK_PATIENCE_US if comparison.is_spot_check else PATIENCE_US
        again: list[Effect] = [SetTimer(over, patience_us)]
        if comparison.is_held:
            checked = self._go_on(batch, comparison.first, Draw.CHECK, now_us=now_us)
            return checked + self.choose()
        if task.is_placing or self.leasing.leases.of_task(over.batch, over.index):
            return again
        ruling = comparison.tally.settle()
        if ruling is Ruling.OPEN and not comparison.is_spot_check:
            return again
        effects: list[Effect] = []
        if ruling is Ruling.OPEN:
            self._take_unchecked(batch, over.index, comparison)
        else:
            effects += self._on_ruling(batch, over.index, comparison, ruling, now_us=now_us)
        # Not when it is decided: there may be no majority of stewards for that.
        effects += self._on_check_over(over.batch, over.index, now_us=now_us)
        return effects + self.choose()

    def on_deadline(self, batch: Batch) -> list[Effect]:
        """Take results that were only to be checked: their time is over."""
        for index in batch.open_indices():
            task = batch.progress[index]
            comparison = task.comparison if task.is_open else None
            if comparison is None or comparison.tally.is_disputed:
                continue
            if comparison.is_spot_check:
                self._take_unchecked(batch, index, comparison)
        return self.choose()

    def on_decided(self, batch: BatchId, indices: Iterable[int], *, now_us: int) -> list[Effect]:
        """Tasks have their outcomes: checks of them are over, and counted."""
        effects: list[Effect] = []
        for index in indices:
            self._forget(batch, index)
            effects += self._on_check_over(batch, index, now_us=now_us)
        return effects + self.choose()

    def on_devices_removed(self, removed: frozenset[PeerId], *, now_us: int) -> list[Effect]:
        """Compare with nothing that devices brought which are out of the mesh."""
        effects: list[Effect] = []
        for peer in removed:
            self._held.pop(peer, None)
        for batch_id, index in list(self._compared):
            batch = self.office.batch(batch_id)
            task = None if batch is None else batch.progress[index]
            if batch is None or task is None or task.comparison is None or not task.is_open:
                continue
            gone = removed & task.comparison.answers.keys()
            if not gone:
                continue
            left = [one for peer, one in task.comparison.answers.items() if peer not in gone]
            self._forget(batch_id, index)
            effects += self._on_check_over(batch_id, index, now_us=now_us)
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
            reasons = {
                index: reason
                for index in results
                if (reason := self._reasons.pop((batch.batch, index), None)) is not None
            }
            effects += self.register.choose(batch, first.lease, results, agreeing, reasons)
        return effects

    def _draw(self, batch: Batch, one: Answer, *, now_us: int) -> list[Effect]:
        """Propose a single result, have it checked, or let it wait for checks of its device."""
        index, executor = one.result.index, one.result.executor
        draw = self.checks.draw(executor, self.lots().chance(batch.batch, index))
        if executor == batch.contract.signer:
            draw = Draw.TAKE  # whoever it could deceive asked for it
        return self._go_on(batch, one, draw, now_us=now_us)

    def _go_on(self, batch: Batch, one: Answer, draw: Draw, *, now_us: int) -> list[Effect]:
        """Do about a single result what was drawn."""
        index, executor = one.result.index, one.result.executor
        task, place = batch.progress[index], (batch.batch, index)
        if draw is not Draw.TAKE and not self.has_partner(batch, index, now_us):
            draw = Draw.TAKE
            self._reasons[place] = UNCHECKED
        if draw is Draw.TAKE:
            task.comparison = None
            self._forget(*place)
            self._chosen[place] = one, []
            return []
        runs_wanted = 2 if draw is Draw.CHECK else 1
        tally = Tally[PeerId](equal_wanted=2, runs_wanted=runs_wanted)
        task.comparison = Comparison(tally=tally, is_spot_check=True)
        effects = self._keep(one, HELD_PATIENCE_US) if place not in self._compared else []
        if draw is Draw.HOLD:
            task.comparison.answers[executor] = one
            self._held.setdefault(executor, []).append(one)
            batch.want_runs(index, 1)
            task.reason = task.comparison.text
            return effects + self.office.on_changed(batch, (index,))
        effects.append(SetTimer(PatienceOver(*place), CHECK_PATIENCE_US))  # replaces the longer one
        self.checks.on_begun(executor)
        self._checked[place] = executor
        ruling = task.comparison.add(one)
        return effects + self._on_ruling(batch, index, task.comparison, ruling, now_us=now_us)

    def _on_check_over(self, batch: BatchId, index: int, *, now_us: int) -> list[Effect]:
        """Draw again for what waited for a check."""
        executor = self._checked.pop((batch, index), None)
        if executor is None:
            return []
        self.checks.on_ended(executor)
        effects: list[Effect] = []
        for one in self._held.pop(executor, []):
            of = self.office.batch(one.result.batch)
            task = None if of is None else of.progress[one.result.index]
            if of is None or task is None or not (of.is_leading and task.is_open):
                continue
            comparison = task.comparison
            is_here = comparison is not None and comparison.answers.get(executor) is one
            if comparison is not None and is_here and comparison.is_held:
                effects += self._draw(of, one, now_us=now_us)
        return effects

    def _take_unchecked(self, batch: Batch, index: int, comparison: Comparison) -> None:
        self._forget(batch.batch, index)
        self._chosen[batch.batch, index] = comparison.first, []
        self._reasons[batch.batch, index] = UNCHECKED

    def _keep(self, one: Answer, patience_us: int) -> list[Effect]:
        place = one.result.batch, one.result.index
        is_new = place not in self._compared
        size_bytes = len(one.proven.received)
        self._compared[place] = self._compared.get(place, 0) + size_bytes
        self._compared_bytes += size_bytes
        return [SetTimer(PatienceOver(*place), patience_us)] if is_new else []

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
                for peer in tally.convicted():
                    effects += self._convict(batch, comparison.answers[peer], agreeing)
                for peer in tally.not_compared():
                    effects += self.standings.on_doubted(peer)
            case Ruling.NO_MAJORITY:
                effects = self._fail(batch, index, f"no majority: {comparison.text}")
            case Ruling.NOT_COMPARABLE if comparison.is_spot_check:
                self._chosen[batch.batch, index] = comparison.first, []
                self._reasons[batch.batch, index] = NOT_COMPARED
                effects = []
            case Ruling.NOT_COMPARABLE:
                first = comparison.first.result.status
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

    def _convict(self, batch: Batch, wrong: Answer, right: list[Answer]) -> list[Effect]:
        shown = [one.leased() for one in right[:CONVICTING_RESULTS]]
        leases = [wrong.lease, *(one.lease for one in shown)]
        involved = {batch.contract.signer}
        for lease in leases:
            involved |= {lease.signer, lease.body.executor}
        conviction = Conviction(
            contract=batch.contract,
            wrong=wrong.leased(),
            right=tuple(shown),
            chains=self.office.chains_of(sorted(involved), batch.chains),
        )
        return self.convict(conviction)

    def _fail(self, batch: Batch, index: int, reason: str) -> list[Effect]:
        return self.register.close(batch, OutcomeKind.FAILED, {index: reason})
