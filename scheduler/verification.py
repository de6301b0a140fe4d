"""The steward's check of results: signature, lease, terms, and the output itself.

A result counts under any lease that a steward of its contract gave, however late: pure tasks may
run twice, and the register picks one. A lease of a store that is gone counts for nothing. Where
equal results of several devices are wanted, `Comparing` has them before the register has one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from scheduler.agreement import Answer
from scheduler.batch import Batch, Decided
from scheduler.comparing import Comparing
from scheduler.leasing import REMOVED, Leasing
from scheduler.register import Register
from scheduler.standing import Standings
from scheduler.states import TaskEvent, TaskState
from scheduler.stewardship import Stewardship
from telemetry.breaker import ProbeEnd
from telemetry.measurement import ANY_KIND
from wire.content import SEALED_EXTRA_BYTES, Content
from wire.effects import Effect, Fetch, OutputCheck, Send, SetTimer, Trace
from wire.errors import MalformedFrame
from wire.events import Fetched, FetchFailed
from wire.ids import BatchId, PeerId
from wire.membership import Role
from wire.messages import ResultsOffered, Settled
from wire.signed import Signed
from wire.tasks import Contract, Lease, Outcome, ProvenResult, Result, Steward, open_result

DECISION_TICK_US = 2_000
# While outputs are fetched no more results of the task are taken than are wanted. So nobody is
# waited for often: whoever holds a lease gets another try with it, and none after an output that
# was wrong.
UNUSABLE_MAX = 2


@dataclass(frozen=True, slots=True)
class DecisionTick:
    """Timer: vote on all results that were checked since the last tick."""


@dataclass(frozen=True, slots=True)
class OutputToken:
    """Names the fetch of one output to the host."""

    batch: BatchId
    index: int
    executor: PeerId


@dataclass(slots=True, kw_only=True)
class Verification:
    """Results on their way from an executor's offer to the register.

    Of a task as many at a time as devices are to run it, one of each device.
    """

    office: Stewardship
    register: Register
    leasing: Leasing
    standings: Standings
    comparing: Comparing
    _checking: dict[OutputToken, Answer] = field(default_factory=dict)
    _checked: list[Answer] = field(default_factory=list)
    # Whose results of a task are being checked, or wait for the tick.
    _of_task: dict[tuple[BatchId, int], set[PeerId]] = field(default_factory=dict)

    def on_results_offered(
        self, sender: PeerId, offered: ResultsOffered, *, now_us: int
    ) -> list[Effect]:
        """Check what came out, whoever brings it; tell what is settled already."""
        lease = offered.lease.body
        batch = self.office.batch(lease.batch)
        settled: dict[int, Outcome | None] = {}
        effects: list[Effect] = []
        for proven, result in results_of(offered.results, lease):
            if batch is None:
                settled[result.index] = None  # this store never knew it, or has forgotten it
                continue
            one = Answer(lease=offered.lease, proven=proven, result=result)
            decided = batch.progress[result.index].decided
            if decided is not None:
                settled[result.index] = _outcome_of(decided)
                self.leasing.end_task(one.ref, result.index)
                effects += self.leasing.over_without_proof(result.executor, one.ref, now_us=now_us)
            elif batch.is_leading and is_leased(offered.lease, batch):
                effects += self._take(sender, batch, one, now_us=now_us)
        if settled:
            effects.append(Send(sender, Settled(batch=lease.batch, outcomes=settled)))
        return effects

    def on_fetched(self, fetched: Fetched) -> list[Effect]:
        """An output is here and is what its result says: vote at the next tick."""
        checking = self._taken(fetched.token)
        return [] if checking is None else self._is_good(checking)

    def on_fetch_failed(self, failed: FetchFailed, *, now_us: int) -> list[Effect]:
        """The output cannot be had, or is not what was signed: somebody else has to run it."""
        one = self._taken(failed.token)
        if one is None:
            return []
        executor, index = one.result.executor, one.result.index
        self._forget(one)
        batch = self.office.batch(one.result.batch)
        kind = ANY_KIND if batch is None else batch.task_kind
        effects: list[Effect] = []
        if failed.is_wrong:
            effects += self.standings.on_dispute(executor, task_kind=kind, now_us=now_us)
        effects += self.standings.on_lease_ended(
            executor, one.ref, ProbeEnd.DEVICE_FAILED, task_kind=kind, now_us=now_us
        )
        task = None if batch is None else batch.progress[index]
        if batch is None or task is None or not (batch.is_leading and task.is_open):
            return effects  # decided without it, or another steward leads now
        unusable = task.unusable = task.unusable or {}
        # One lease is one failure, however many results its holder makes up under it.
        blamed = None if one.ref in unusable else executor
        failures = unusable.get(one.ref, 0) + 1
        unusable[one.ref] = UNUSABLE_MAX if failed.is_wrong else failures
        reason = f"its result was refused: {failed.reason}"
        return effects + self._step_back(batch, one, blamed, reason, now_us=now_us)

    def on_devices_removed(self, removed: frozenset[PeerId], *, now_us: int) -> list[Effect]:
        """Vote for no result of devices that are out of the mesh: somebody else has to run it."""
        effects = self.comparing.on_devices_removed(removed, now_us=now_us)
        gone = [one for one in self._checking.values() if one.result.executor in removed]
        gone += [one for one in self._checked if one.result.executor in removed]
        self._checking = {
            token: one
            for token, one in self._checking.items()
            if one.result.executor not in removed
        }
        self._checked = [one for one in self._checked if one.result.executor not in removed]
        for one in gone:
            self._forget(one)
            effects += self.leasing.over_without_proof(one.result.executor, one.ref, now_us=now_us)
            batch = self.office.batch(one.result.batch)
            if batch is not None and self._is_wanted(batch, one):
                effects += self._step_back(batch, one, None, REMOVED, now_us=now_us)
        return effects

    def on_decision_tick(self, *, now_us: int) -> list[Effect]:
        """Vote once for all results of a lease that were checked; keep their outputs."""
        checked, self._checked = self._checked, []
        effects: list[Effect] = []
        for one in checked:
            self._forget(one)
            batch = self.office.batch(one.result.batch)
            if batch is not None and self._is_wanted(batch, one):
                effects += self.comparing.on_checked(batch, one, now_us=now_us)
            else:
                effects += self.leasing.over_without_proof(
                    one.result.executor, one.ref, now_us=now_us
                )
        return effects + self.comparing.choose()

    def _take(self, sender: PeerId, batch: Batch, one: Answer, *, now_us: int) -> list[Effect]:
        result = one.result
        task = batch.progress[result.index]
        fault = result_fault(result, batch.contract.body, may=self.office.may)
        granted = self.leasing.leases.of(one.ref, result.executor)
        if fault is not None:
            effects: list[Effect] = [Trace("result.refused", {"reason": fault})]
            if granted is not None and result.index in granted.indices:
                effects += self.leasing.give_back(
                    one.ref, granted, (result.index,), fault, ProbeEnd.DEVICE_FAILED, now_us=now_us
                )
            return effects
        if granted is not None and result.index in granted.indices:
            self.leasing.hedging.on_result(batch, result, granted, now_us=now_us)
        # The work under this lease is done, so it cannot run out while its result is checked.
        self.leasing.end_task(one.ref, result.index)
        is_unusable = (task.unusable or {}).get(one.ref, 0) >= UNUSABLE_MAX
        of_task = self._of_task.get((batch.batch, result.index), set())
        compared = {} if task.comparison is None else task.comparison.answers
        is_here = result.executor in of_task or result.executor in compared
        has_room = len(of_task) + len(compared) < task.runs_wanted
        if not task.is_open or is_here or is_unusable or not has_room:
            return []  # it is offered again until the task is decided
        if not self.comparing.has_room(task):
            return []
        self._of_task.setdefault((batch.batch, result.index), set()).add(result.executor)
        task.executor = result.executor
        batch.engage(result.index, result.executor)
        text = task.said("checking the result")
        batch.move(result.index, TaskEvent.RESULT_OFFERED, text)
        changed = self.office.on_changed(batch, (result.index,))
        if task.comparison is not None and task.comparison.has_equal(result):
            return [*changed, *self._is_good(one)]  # its output is here already
        token = OutputToken(batch.batch, result.index, result.executor)
        self._checking[token] = one
        check = OutputCheck(
            box=batch.own_key(self.office.own), index=result.index, digest=result.output_digest
        )
        sources = tuple(dict.fromkeys((sender, result.executor)))
        fetch = Fetch(content=result.output, sources=sources, token=token, check=check)
        return [*changed, fetch]

    def _is_good(self, one: Answer) -> list[Effect]:
        self._checked.append(one)
        return [SetTimer(DecisionTick(), DECISION_TICK_US)] if len(self._checked) == 1 else []

    def _is_wanted(self, batch: Batch, one: Answer) -> bool:
        return batch.is_leading and batch.progress[one.result.index].is_open

    def _step_back(
        self, batch: Batch, one: Answer, blamed: PeerId | None, reason: str, *, now_us: int
    ) -> list[Effect]:
        """Go on without a result: with others that are here, a lease that is out, or a new one."""
        index = one.result.index
        task = batch.progress[index]
        self.leasing.disengage(batch, index, one.result.executor)
        if (batch.batch, index) in self._of_task or task.comparison is not None:
            task.reason = task.said(reason)
        elif task.state is not TaskState.PENDING:  # else it was led by others meanwhile
            batch.move(index, TaskEvent.RESULT_REFUSED, reason)
            self.leasing.resume(batch, index)
        if not task.lacks_runs:  # another device is at it already
            return self.office.on_changed(batch, (index,))
        return self.leasing.wait_again(batch, index, blamed, reason, now_us=now_us)

    def _forget(self, one: Answer) -> None:
        place = one.result.batch, one.result.index
        of_task = self._of_task.get(place, set())
        of_task.discard(one.result.executor)
        if not of_task:
            self._of_task.pop(place, None)

    def _taken(self, token: Hashable) -> Answer | None:
        return self._checking.pop(token, None) if isinstance(token, OutputToken) else None


def is_leased(lease: Signed[Lease], batch: Batch) -> bool:
    """Say whether the steward of its epoch gave a lease, in an epoch that is known here."""
    body = lease.body
    steward = batch.steward_of(body.epoch)
    return body.epoch <= batch.epoch and steward == Steward(lease.signer, body.store)


def result_fault(
    result: Result, contract: Contract, *, may: Callable[[PeerId, Role], bool]
) -> str | None:
    """Return why a result is not acceptable under a contract, None if it is."""
    rules = (
        (not may(result.executor, Role.EXECUTOR), "its signer may not execute tasks"),
        (
            result.engine_profile not in contract.engine_profiles,
            f"engine profile {result.engine_profile}",
        ),
        (result.fuel_used > contract.limits.fuel, "more fuel than the limit"),
        (
            _size_bytes(result.output) > contract.limits.output_bytes + SEALED_EXTRA_BYTES,
            "more output than the limit",
        ),
        (result.log is not None and result.log.blob is not None, "its log is not in it"),
    )
    return next((fault for applies, fault in rules if applies), None)


def results_of(
    proven_results: Iterable[ProvenResult], lease: Lease
) -> list[tuple[ProvenResult, Result]]:
    """Return the results that the holder of the lease signed, under that lease."""
    found: list[tuple[ProvenResult, Result]] = []
    for proven in proven_results:
        try:
            result = open_result(proven)
        except MalformedFrame:
            continue  # whoever brings such a thing is not believed in anything else either
        run = (result.batch, result.executor, result.epoch, result.attempt)
        if run == (lease.batch, lease.executor, lease.epoch, lease.attempt) and (
            result.index in lease.indices
        ):
            found.append((proven, result))
    return found


def _size_bytes(content: Content) -> int:
    if content.inline is not None:
        return len(content.inline)
    return 0 if content.blob is None else content.blob.size_bytes


def _outcome_of(decided: Decided) -> Outcome:
    return Outcome(kind=decided.kind, result=decided.result, reason=decided.reason)
