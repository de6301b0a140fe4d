"""The steward: keeps a batch's contract and outcomes, finds executors, decides once.

Here it is the submitting device alone (`durability: local`), so a majority of its stewards is its
own durable vote. What has to be durable before anything follows from it goes through `Persist`,
whose `then` sets a timer of no delay: the timer is the event "it is durable".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from msgspec import Struct

from scheduler.batch import (
    BATCH_ROW,
    DECISION_ROW,
    Batch,
    BatchRow,
    Decided,
    DecisionRow,
    TaskProgress,
    decision_key,
)
from scheduler.leases import LEASE_US, Granted, GrantedLeaseEnds, LeaseBook
from scheduler.placement import Placement, Placements, chunk_size, is_permanent
from scheduler.selection import Candidate, Exclusion
from scheduler.standing import Standings
from scheduler.states import TaskEvent, TaskState
from telemetry.breaker import ProbeEnd
from wire.answers import Accepted, RefusalCode, Refused
from wire.answers import Candidate as CandidateView
from wire.commands import Submit
from wire.effects import (
    Answer,
    Effect,
    Fetch,
    Offer,
    OutputCheck,
    Persist,
    Release,
    Row,
    Send,
    SetTimer,
    Trace,
)
from wire.errors import MalformedFrame
from wire.events import Fetched, FetchFailed
from wire.execution import ExecutionFailure
from wire.ids import BatchId, MeshId, PeerId, StoreId, peer_text
from wire.membership import Chain, Role
from wire.messages import (
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    LeaseRef,
    OfferAccepted,
    OfferRejected,
    OfferReleased,
    ResultsOffered,
    Settled,
)
from wire.messages import Offer as OfferMessage
from wire.signed import Signed, Signer, sign
from wire.tasks import (
    Contract,
    Durability,
    Epoch,
    KeyFor,
    Lease,
    Outcome,
    OutcomeKind,
    ProvenResult,
    ProvenTask,
    Result,
    Vote,
    open_result,
    prove_tasks,
    result_digest,
    task_id_of,
    tasks_root_of,
)
from wire.tasks import Steward as NamedSteward

UNDECIDED_TASKS_MAX = 20_000
FINISHED_BATCHES_MAX = 1_000
OFFER_ANSWER_US = 2_000_000
REVIEW_EVERY_US = 1_000_000
DECISION_TICK_US = 2_000
LEASE_RESTART_MARGIN_PERCENT = 2
CLOSEST_MAX = 5

ROUND_ROW = "round"
_ROUND_KEY = b"own"

# The module itself is at fault: a second device that says so settles it.
_MODULE_FAULTS = frozenset(
    {
        ExecutionFailure.NOT_WASM,
        ExecutionFailure.UNSUPPORTED_MODULE,
        ExecutionFailure.COMPILER_LIMIT,
    }
)
MODULE_FAULT_WITNESSES = 2


class RoundRow(Struct, frozen=True, kw_only=True):
    """The round of this start. A restarted steward never leases or votes in one of before."""

    round: int


@dataclass(frozen=True, slots=True)
class RoundDurable:
    """Timer of no delay: this start's round is durable, so leases may be given."""


@dataclass(frozen=True, slots=True)
class BatchDurable:
    """Timer of no delay: the batch is durable, so it is accepted."""

    batch: BatchId
    request: int


@dataclass(frozen=True, slots=True)
class DecisionDurable:
    """Timer of no delay: outcomes are durable, so they may be told."""

    key: bytes


@dataclass(frozen=True, slots=True)
class PlacementReview:
    """Timer: offer what is waiting."""


@dataclass(frozen=True, slots=True)
class OfferUnanswered:
    """Timer: go on with those who answered."""

    offer: int


@dataclass(frozen=True, slots=True)
class DecisionTick:
    """Timer: vote on all results that were checked since the last tick."""


@dataclass(frozen=True, slots=True)
class DeadlineDue:
    """Timer: what is not decided now fails."""

    batch: BatchId


@dataclass(frozen=True, slots=True)
class OutputToken:
    """Names the fetch of one output to the host."""

    batch: BatchId
    index: int


@dataclass(frozen=True, slots=True)
class _Checking:
    """A result whose output is being fetched and checked."""

    executor: PeerId
    lease: Signed[Lease]
    proven: ProvenResult
    result: Result


@dataclass(slots=True, kw_only=True)
class Steward:
    """The batches this device is steward of. Times are microseconds on the caller's clock."""

    signer: Signer
    mesh: MeshId
    store: StoreId
    engine_profile: str
    standings: Standings
    placements: Placements
    leases: LeaseBook
    candidates: Callable[[], list[Candidate]]
    may: Callable[[PeerId, Role], bool]
    chain_of: Callable[[PeerId], Chain | None]
    wall_us: Callable[[], int]
    on_changed: Callable[[Batch, int], list[Effect]]  # somebody may wait for this task
    is_stopping: bool = False
    batches: dict[BatchId, Batch] = field(default_factory=dict)
    _round: int = 0
    _is_ready: bool = False
    _accepting: dict[BatchId, int] = field(default_factory=dict)
    _proven: dict[BatchId, tuple[ProvenTask, ...]] = field(default_factory=dict)
    _checking: dict[OutputToken, _Checking] = field(default_factory=dict)
    _checked: list[_Checking] = field(default_factory=list)
    _deciding: dict[bytes, DecisionRow] = field(default_factory=dict)

    @property
    def epoch(self) -> Epoch:
        """The epoch in which this device leases and votes: it is the only steward, of rank 0."""
        return Epoch(0, self._round, 0)

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits for a device."""
        return any(batch.pending() for batch in self.batches.values() if not batch.is_decided)

    # --- start and submission ---------------------------------------------------------------

    def on_restarted(
        self,
        *,
        rounds: list[RoundRow],
        batches: list[BatchRow],
        decisions: list[tuple[bytes, DecisionRow]],
        now_us: int,
    ) -> list[Effect]:
        """Take up the batches of before. Their leases may still be out: wait for those to end."""
        self._round = max((row.round for row in rounds), default=0) + 1
        hold_us = LEASE_US * (100 + LEASE_RESTART_MARGIN_PERCENT) // 100
        for row in batches:
            batch = Batch(
                contract=row.contract,
                submitted_wall_us=row.submitted_wall_us,
                tasks=row.tasks,
                hold_until_us=now_us + hold_us,
                is_durable=True,
            )
            for task in batch.progress:
                task.reason = "this device restarted; waiting for leases of before to run out"
            self.batches[batch.batch] = batch
        for key, decision in decisions:
            decided = self.batches.get(decision.vote.body.batch)
            if decided is not None:
                decided.decide(key, decision)
        effects: list[Effect] = [
            Persist(
                (Row(ROUND_ROW, _ROUND_KEY, RoundRow(round=self._round)),),
                (SetTimer(RoundDurable(), 0),),
            )
        ]
        for batch in self.batches.values():
            if not batch.is_decided:
                effects += [*_offered_blobs(batch), self._deadline(batch)]
        return effects

    def on_round_durable(self) -> list[Effect]:
        """Leases may be given now."""
        self._is_ready = True
        return [SetTimer(PlacementReview(), 0)]

    def refusal(self, submit: Submit) -> Refused | None:
        """Return why a submission is not taken at all."""
        undecided = sum(
            task.decided is None for batch in self.batches.values() for task in batch.progress
        )
        if self.is_stopping:
            return Refused(code=RefusalCode.STOPPING, message="the daemon is stopping")
        if not self.may(self.signer.peer, Role.SUBMITTER):
            return Refused(
                code=RefusalCode.REFUSED,
                message="this device may not submit tasks",
                hint="an admin can invite it again with --role submitter",
            )
        if submit.durability is Durability.MESH:
            return Refused(
                code=RefusalCode.REFUSED,
                message="durability mesh needs three devices that keep tasks for each other; "
                "this version keeps a task on the submitting device alone",
                hint="submit with --durability local, or leave it out",
            )
        if undecided + len(submit.tasks) > UNDECIDED_TASKS_MAX:
            return Refused(
                code=RefusalCode.REFUSED,
                message=f"{undecided} tasks are not finished; {UNDECIDED_TASKS_MAX} is the most",
                hint="wait for some to finish, or cancel some",
            )
        return None

    def nobody_eligible(self, submit: Submit) -> Refused | None:
        """Return who came closest, if no known device could ever run this."""
        contract = self._contract(submit)
        eligible, excluded = self.placements.exclusions(
            BatchId(bytes(20)), contract, self.candidates(), now_us=0
        )
        if eligible or not is_permanent(reason for reason, _ in excluded.values()):
            return None
        closest = sorted(
            (candidate for candidate in self.candidates() if candidate.is_executor),
            key=lambda candidate: (len(_lacking(contract, candidate)), candidate.name),
        )[:CLOSEST_MAX]
        views = [
            CandidateView(id=peer_text(one.peer), name=one.name, missing=_lacking(contract, one))
            for one in closest
        ]
        wanted = " ".join(contract.requirements) or f"profile:{self.engine_profile}"
        return Refused(
            code=RefusalCode.NOBODY_ELIGIBLE,
            message=f"no device provides {wanted}",
            hint=_closest_hint(views),
            closest=views,
        )

    def on_submit(self, request: int, submit: Submit, *, now_us: int) -> list[Effect]:
        """Sign the contract; the batch is accepted when it is durable."""
        contract = sign(self._contract(submit), self.signer)
        batch = Batch(
            contract=contract,
            submitted_wall_us=self.wall_us(),
            tasks=submit.tasks,
            hold_until_us=now_us,
        )
        self.batches[batch.batch] = batch
        row = BatchRow(
            contract=contract, tasks=submit.tasks, submitted_wall_us=batch.submitted_wall_us
        )
        durable = SetTimer(BatchDurable(batch.batch, request), 0)
        return [
            *self._retire(),
            *_offered_blobs(batch),
            Persist((Row(BATCH_ROW, batch.batch, row),), (durable,)),
        ]

    def on_batch_durable(self, durable: BatchDurable) -> list[Effect]:
        """Accepted: from here the tasks survive a restart."""
        batch = self.batches[durable.batch]
        batch.is_durable = True
        contract = batch.contract.body
        accepted = Accepted(
            batch=str(task_id_of(batch.contract, 0)).split(".", 1)[0],
            tasks=[str(task_id_of(batch.contract, index)) for index in range(contract.tasks_count)],
            durability=str(contract.durability),
            durability_reason="this device alone keeps the task",
            stewards=[peer_text(steward.peer) for steward in contract.stewards],
        )
        return [
            Answer(durable.request, accepted),
            self._deadline(batch),
            SetTimer(PlacementReview(), 0),
        ]

    # --- placement --------------------------------------------------------------------------

    def on_placement_review(self, *, now_us: int) -> list[Effect]:
        """Offer what is waiting, urgent batches first, then in the order they came."""
        waiting = [
            batch
            for batch in self.batches.values()
            if batch.is_durable and not batch.is_decided and batch.pending()
        ]
        if not waiting or not self._is_ready or self.is_stopping:
            return []
        effects: list[Effect] = [SetTimer(PlacementReview(), REVIEW_EVERY_US)]
        candidates = self.candidates()
        for batch in sorted(waiting, key=lambda one: -one.contract.body.priority):
            if now_us >= batch.hold_until_us:
                effects += self._place(batch, candidates, now_us=now_us)
        return effects

    def on_offer_accepted(
        self, executor: PeerId, accepted: OfferAccepted, *, now_us: int
    ) -> list[Effect]:
        """Wait for the other answer, or decide."""
        placement = self.placements.on_accepted(
            accepted.offer, executor, tasks_count=accepted.tasks_count, wait_us=accepted.wait_us
        )
        if placement is None:
            return [Send(executor, OfferReleased(offer=accepted.offer))]
        return self._settle_placement(accepted.offer, placement, now_us=now_us)

    def on_offer_rejected(
        self, executor: PeerId, rejected: OfferRejected, *, now_us: int
    ) -> list[Effect]:
        """Go on with the others."""
        placement = self.placements.on_rejected(
            rejected.offer, executor, rejected.reason, rejected.detail, now_us=now_us
        )
        if placement is None:
            return []
        return self._settle_placement(rejected.offer, placement, now_us=now_us)

    def on_offer_unanswered(self, unanswered: OfferUnanswered, *, now_us: int) -> list[Effect]:
        """Two seconds are over: silence is a refusal."""
        placement = self.placements.close(unanswered.offer)
        if placement is None:
            return []
        return self._grant(unanswered.offer, placement, now_us=now_us)

    def _place(self, batch: Batch, candidates: list[Candidate], *, now_us: int) -> list[Effect]:
        contract = batch.contract.body
        eligible, excluded = self.placements.exclusions(
            batch.batch, contract, candidates, now_us=now_us
        )
        effects: list[Effect] = []
        while self.placements.has_room and (pending := batch.pending()) and eligible:
            able = self._not_failed(batch.progress[pending[0]], eligible)
            indices = tuple(pending[: chunk_size(len(pending), able)])
            offer, placement = self.placements.open(batch.batch, contract, indices, able)
            for index in indices:
                batch.progress[index].is_placing = True
            message = OfferMessage(offer=offer, contract=batch.contract, tasks_count=len(indices))
            effects += [Send(peer, message) for peer in placement.asked]
            effects.append(SetTimer(OfferUnanswered(offer), OFFER_ANSWER_US))
        if not eligible:
            effects += self._explain(batch, excluded)
        return effects

    def _not_failed(self, task: TaskProgress, eligible: list[Candidate]) -> list[Candidate]:
        others = [one for one in eligible if one.peer not in task.failed_on]
        # When all have failed it, one of them may do better the next time: retries are counted.
        return others or eligible

    def _explain(self, batch: Batch, excluded: dict[PeerId, tuple[Exclusion, str]]) -> list[Effect]:
        counts: dict[Exclusion, int] = {}
        for reason, _ in excluded.values():
            counts[reason] = counts.get(reason, 0) + 1
        summary = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        text = f"no device is eligible now: {summary or 'none is known'}"
        effects: list[Effect] = []
        for index in batch.pending():
            task = batch.progress[index]
            if task.reason != text:
                task.reason = text
                effects += self.on_changed(batch, index)
        return effects

    def _settle_placement(self, offer: int, placement: Placement, *, now_us: int) -> list[Effect]:
        if not placement.is_answered:
            return []
        self.placements.close(offer)
        return self._grant(offer, placement, now_us=now_us)

    def _grant(self, offer: int, placement: Placement, *, now_us: int) -> list[Effect]:
        effects: list[Effect] = [
            Send(peer, OfferReleased(offer=offer)) for peer in placement.losers()
        ]
        batch = self.batches.get(placement.batch)
        if batch is None:
            return effects
        for index in placement.indices:
            batch.progress[index].is_placing = False
        best = placement.best()
        waiting = set(batch.pending())
        indices = tuple(index for index in placement.indices if index in waiting)
        effects.append(SetTimer(PlacementReview(), 0 if best is not None else REVIEW_EVERY_US // 4))
        if best is None:
            return effects
        executor = best.candidate.peer
        if not indices or not self.standings.allows_work(executor):
            return [*effects, Send(executor, OfferReleased(offer=offer))]
        indices = indices[: best.tasks_count]
        return effects + self._lease(offer, batch, executor, indices, now_us=now_us)

    def _lease(
        self, offer: int, batch: Batch, executor: PeerId, indices: tuple[int, ...], *, now_us: int
    ) -> list[Effect]:
        batch.attempts += 1
        box = self.signer.seal(self.signer.unseal(batch.own_key(self.signer.peer)), executor)
        lease = sign(
            Lease(
                batch=batch.batch,
                indices=indices,
                executor=executor,
                store=self.store,
                epoch=self.epoch,
                attempt=batch.attempts,
                duration_us=LEASE_US,
                key=box,
            ),
            self.signer,
        )
        ref = LeaseRef(batch.batch, self.epoch, batch.attempts)
        self.standings.on_lease_granted(executor, ref, now_us=now_us)
        effects = self.leases.grant(ref, executor, indices, now_us=now_us)
        for index in indices:
            task = batch.progress[index]
            task.attempts += 1
            task.executor = executor
            task.move(TaskEvent.LEASED, "leased")
            effects += self.on_changed(batch, index)
        proven = self._proven_tasks(batch)
        granted = LeaseGranted(
            offer=offer,
            lease=lease,
            contract=batch.contract,
            tasks=tuple(proven[index] for index in indices),
        )
        trace = Trace(
            "lease.granted",
            {"batch": batch.batch.hex(), "executor": executor.hex(), "tasks": len(indices)},
        )
        return [*effects, Send(executor, granted), trace]

    # --- leases -----------------------------------------------------------------------------

    def on_lease_progress(
        self, executor: PeerId, progress: LeaseProgress, *, now_us: int
    ) -> list[Effect]:
        """Renew the leases; those that are over are said to be."""
        effects: list[Effect] = []
        for ref in progress.leases:
            granted = self.leases.renew(ref, executor, now_us=now_us)
            if granted is None:
                over = LeaseEnded(lease=ref, indices=(), reason="the lease is over")
                effects.append(Send(executor, over))
            elif not granted.is_started:
                granted.is_started = True
                effects += self._move_all(ref, granted, TaskEvent.STARTED, "running")
        return effects

    def on_granted_lease_ends(self, ends: GrantedLeaseEnds, *, now_us: int) -> list[Effect]:
        """An executor was silent for a whole lease: its tasks go elsewhere."""
        granted, effects = self.leases.on_timer_due(ends, now_us=now_us)
        if granted is None:
            return effects
        return self._lease_over(
            ends.lease,
            granted,
            tuple(granted.indices),
            "its device was not heard for a lease",
            end=ProbeEnd.DEVICE_FAILED,
            now_us=now_us,
        )

    def on_lease_ended(self, executor: PeerId, ended: LeaseEnded, *, now_us: int) -> list[Effect]:
        """The executor gives tasks back: it could not run them, or it stops."""
        granted = self.leases.of(ended.lease, executor)
        if granted is None:
            return []
        indices = tuple(ended.indices or granted.indices)
        fault = ended.reason.split(":", 1)[0]
        blames_device = bool(ended.indices) and fault in set(ExecutionFailure) - _MODULE_FAULTS
        return self._lease_over(
            ended.lease,
            granted,
            tuple(index for index in indices if index in granted.indices),
            ended.reason,
            end=ProbeEnd.DEVICE_FAILED if blames_device else ProbeEnd.INCONCLUSIVE,
            now_us=now_us,
        )

    def _lease_over(
        self,
        ref: LeaseRef,
        granted: Granted,
        indices: tuple[int, ...],
        reason: str,
        *,
        end: ProbeEnd,
        now_us: int,
    ) -> list[Effect]:
        for index in indices:
            self.leases.end_task(ref, index)
        effects = self.standings.on_lease_ended(granted.executor, ref, end, now_us=now_us)
        batch = self.batches.get(ref.batch)
        if batch is None:
            return effects
        failed: dict[int, str] = {}
        for index in indices:
            task = batch.progress[index]
            if task.state not in (TaskState.ASSIGNED, TaskState.EXECUTING):
                continue  # its result is here already, or it is decided
            task.failed_on[granted.executor] = reason
            task.executor = None
            task.move(TaskEvent.LEASE_OVER, f"waiting for a device again: {reason}")
            verdict = self._hopeless(batch, task)
            if verdict is None:
                effects += self.on_changed(batch, index)
            else:
                failed[index] = verdict
        if failed:
            effects += self._decide_without_result(batch, OutcomeKind.FAILED, failed)
        return [*effects, SetTimer(PlacementReview(), 0)]

    def _hopeless(self, batch: Batch, task: TaskProgress) -> str | None:
        module_faults = [
            (peer, reason)
            for peer, reason in task.failed_on.items()
            if reason.split(":", 1)[0] in _MODULE_FAULTS
        ]
        is_witnessed = len(module_faults) >= MODULE_FAULT_WITNESSES or any(
            peer == self.signer.peer for peer, _ in module_faults
        )
        if is_witnessed:
            return module_faults[-1][1]
        if task.attempts > batch.contract.body.retries_max:
            last = next(reversed(task.failed_on.values()))
            return f"retries spent after {task.attempts} attempts: {last}"[:256]
        return None

    def _move_all(
        self, ref: LeaseRef, granted: Granted, event: TaskEvent, reason: str
    ) -> list[Effect]:
        batch = self.batches.get(ref.batch)
        if batch is None:
            return []
        effects: list[Effect] = []
        for index in sorted(granted.indices):
            if batch.progress[index].state is not TaskState.ASSIGNED:
                continue  # a result under another lease was quicker
            batch.progress[index].move(event, reason)
            effects += self.on_changed(batch, index)
        return effects

    # --- results ----------------------------------------------------------------------------

    def on_results_offered(self, executor: PeerId, offered: ResultsOffered) -> list[Effect]:
        """Check what an executor says came out; tell it what is settled already."""
        lease = offered.lease.body
        batch = self.batches.get(lease.batch)
        results = self._well_formed(offered)
        if batch is None:
            unknown: dict[int, Outcome | None] = {result.index: None for _, result in results}
            return [Send(executor, Settled(batch=lease.batch, outcomes=unknown))]
        settled: dict[int, Outcome | None] = {}
        effects: list[Effect] = []
        for proven, result in results:
            task = batch.progress[result.index]
            if task.decided is not None:
                settled[result.index] = _outcome_of(task.decided)
            elif not task.is_deciding and task.state is not TaskState.VERIFYING:
                effects += self._check(executor, offered.lease, proven, result, batch, task)
        if settled:
            effects.append(Send(executor, Settled(batch=lease.batch, outcomes=settled)))
        return effects

    def on_fetched(self, fetched: Fetched) -> list[Effect]:
        """An output is here and is what its result says: vote at the next tick."""
        checking = self._take_checking(fetched.token)
        if checking is None:
            return []
        self._checked.append(checking)
        return [SetTimer(DecisionTick(), DECISION_TICK_US)] if len(self._checked) == 1 else []

    def on_fetch_failed(self, failed: FetchFailed, *, now_us: int) -> list[Effect]:
        """The output cannot be had, or is not what was signed: somebody else has to run it."""
        checking = self._take_checking(failed.token)
        if checking is None:
            return []
        batch = self.batches.get(checking.result.batch)
        task = None if batch is None else batch.progress[checking.result.index]
        effects = self.standings.on_dispute(checking.executor) if failed.is_wrong else []
        ref = LeaseRef(checking.result.batch, checking.result.epoch, checking.result.attempt)
        self.leases.end_task(ref, checking.result.index)
        effects += self.standings.on_lease_ended(
            checking.executor, ref, ProbeEnd.DEVICE_FAILED, now_us=now_us
        )
        if batch is None or task is None or task.state is not TaskState.VERIFYING:
            return effects
        task.failed_on[checking.executor] = failed.reason
        task.executor = None
        task.move(TaskEvent.RESULT_REFUSED, f"its result was refused: {failed.reason}")
        verdict = self._hopeless(batch, task)
        if verdict is not None:
            failures = {checking.result.index: verdict}
            return effects + self._decide_without_result(batch, OutcomeKind.FAILED, failures)
        effects += self.on_changed(batch, checking.result.index)
        return [*effects, SetTimer(PlacementReview(), 0)]

    def _take_checking(self, token: Hashable) -> _Checking | None:
        return self._checking.pop(token, None) if isinstance(token, OutputToken) else None

    def _well_formed(self, offered: ResultsOffered) -> list[tuple[ProvenResult, Result]]:
        lease = offered.lease.body
        if offered.lease.signer != self.signer.peer or lease.store != self.store:
            return []  # a lease of a store that is gone: that steward is nobody now
        found: list[tuple[ProvenResult, Result]] = []
        for proven in offered.results:
            try:
                result = open_result(proven)
            except MalformedFrame:
                continue
            if (
                result.batch == lease.batch
                and result.index in lease.indices
                and result.executor == lease.executor
                and (result.epoch, result.attempt) == (lease.epoch, lease.attempt)
            ):
                found.append((proven, result))
        return found

    def _check(
        self,
        executor: PeerId,
        lease: Signed[Lease],
        proven: ProvenResult,
        result: Result,
        batch: Batch,
        task: TaskProgress,
    ) -> list[Effect]:
        contract = batch.contract.body
        is_within = (
            result.engine_profile in contract.engine_profiles
            and result.epoch <= self.epoch
            and result.fuel_used <= contract.limits.fuel
            and (result.log is None or result.log.blob is None)
        )
        if not is_within:
            return [Trace("result.out_of_terms", {"executor": result.executor.hex()})]
        token = OutputToken(batch.batch, result.index)
        self._checking[token] = _Checking(
            executor=result.executor, lease=lease, proven=proven, result=result
        )
        task.executor = result.executor
        task.move(TaskEvent.RESULT_OFFERED, "checking the result")
        check = OutputCheck(
            box=batch.own_key(self.signer.peer), index=result.index, digest=result.output_digest
        )
        sources = tuple(dict.fromkeys((executor, result.executor)))
        fetch = Fetch(content=result.output, sources=sources, token=token, check=check)
        return [*self.on_changed(batch, result.index), fetch]

    # --- outcomes ---------------------------------------------------------------------------

    def on_decision_tick(self) -> list[Effect]:
        """Vote once for all results of a lease that were checked, and persist before telling."""
        checked, self._checked = self._checked, []
        by_lease: dict[bytes, list[_Checking]] = {}
        for one in checked:
            batch = self.batches.get(one.result.batch)
            task = None if batch is None else batch.progress[one.result.index]
            if task is not None and task.decided is None and not task.is_deciding:
                by_lease.setdefault(one.lease.received, []).append(one)
        effects: list[Effect] = []
        for group in by_lease.values():
            batch = self.batches[group[0].result.batch]
            outcomes = {
                one.result.index: Outcome(
                    kind=OutcomeKind.RESULT, result=result_digest(one.proven.received)
                )
                for one in group
            }
            results = {one.result.index: one.proven for one in group}
            effects += [
                Offer(one.result.output.blob, batch.batch)
                for one in group
                if one.result.output.blob is not None
            ]
            effects += self._decide(batch, outcomes, results, group[0].lease)
        return effects

    def on_cancel(self, batch: Batch, index: int) -> list[Effect]:
        """Decide Cancelled, unless the task is decided or about to be."""
        task = batch.progress[index]
        if task.decided is not None or task.is_deciding:
            return []
        reasons = {index: "cancelled by its submitter"}
        return self._decide_without_result(batch, OutcomeKind.CANCELLED, reasons)

    def on_deadline_due(self, due: DeadlineDue) -> list[Effect]:
        """What is not decided by now fails."""
        batch = self.batches.get(due.batch)
        if batch is None:
            return []
        late = {
            index: f"deadline passed while {task.state}: {task.reason}"[:256]
            for index, task in enumerate(batch.progress)
            if task.decided is None and not task.is_deciding
        }
        return self._decide_without_result(batch, OutcomeKind.FAILED, late) if late else []

    def on_decision_durable(self, durable: DecisionDurable, *, now_us: int) -> list[Effect]:
        """Tell everybody: those who wait here, and the executor."""
        row = self._deciding.pop(durable.key)
        vote = row.vote.body
        batch = self.batches[vote.batch]
        leases = {index: batch.progress[index].executor for index in vote.outcomes}
        effects: list[Effect] = []
        for index in batch.decide(durable.key, row):
            effects += self._end_lease_of(batch, row, index, leases[index], now_us=now_us)
            effects += self.on_changed(batch, index)
        if row.lease is not None:
            self.placements.on_room(row.lease.body.executor)
        if batch.is_decided:
            self.placements.forget(batch.batch)
            self._proven.pop(batch.batch, None)
        return [*effects, SetTimer(PlacementReview(), 0)]

    def _end_lease_of(
        self, batch: Batch, row: DecisionRow, index: int, executor: PeerId | None, *, now_us: int
    ) -> list[Effect]:
        task = batch.progress[index]
        if executor is None or task.decided is None:
            return []
        effects: list[Effect] = []
        if row.lease is not None:
            lease = row.lease.body
            ref = LeaseRef(lease.batch, lease.epoch, lease.attempt)
            self.leases.end_task(ref, index)
            effects += self.standings.on_lease_ended(
                lease.executor, ref, ProbeEnd.SUCCEEDED, now_us=now_us
            )
            outcomes: dict[int, Outcome | None] = {index: row.vote.body.outcomes[index]}
            settled = Settled(batch=batch.batch, outcomes=outcomes)
            task.move(TaskEvent.RECEIPT_GIVEN)
            return [*effects, Send(lease.executor, settled)]
        return self._call_off(batch.batch, index, executor, now_us=now_us)

    def _call_off(
        self, batch: BatchId, index: int, executor: PeerId, *, now_us: int
    ) -> list[Effect]:
        for ref in self.leases.held_by(executor, batch, index):
            self.leases.end_task(ref, index)
            effects = self.standings.on_lease_ended(
                executor, ref, ProbeEnd.INCONCLUSIVE, now_us=now_us
            )
            ended = LeaseEnded(lease=ref, indices=(index,), reason="the task is decided")
            return [*effects, Send(executor, ended)]
        return []

    def _decide_without_result(
        self, batch: Batch, kind: OutcomeKind, reasons: dict[int, str]
    ) -> list[Effect]:
        outcomes = {index: Outcome(kind=kind, reason=text) for index, text in reasons.items()}
        return self._decide(batch, outcomes, {}, None)

    def _decide(
        self,
        batch: Batch,
        outcomes: dict[int, Outcome],
        results: dict[int, ProvenResult],
        lease: Signed[Lease] | None,
    ) -> list[Effect]:
        vote = sign(
            Vote(batch=batch.batch, store=self.store, epoch=self.epoch, outcomes=outcomes),
            self.signer,
        )
        signers = {batch.contract.signer, self.signer.peer}
        if lease is not None:
            signers.add(lease.body.executor)
        chains = (self.chain_of(peer) for peer in sorted(signers))
        row = DecisionRow(
            vote=vote,
            lease=lease,
            results=results,
            chains=tuple(chain for chain in chains if chain is not None),
            decided_wall_us=self.wall_us(),
        )
        key = decision_key(batch.batch, min(outcomes))
        self._deciding[key] = row
        for index in outcomes:
            batch.progress[index].is_deciding = True
        return [Persist((Row(DECISION_ROW, key, row),), (SetTimer(DecisionDurable(key), 0),))]

    # --- bounds -----------------------------------------------------------------------------

    def _retire(self) -> list[Effect]:
        """Forget the oldest finished batches beyond FINISHED_BATCHES_MAX, blobs included."""
        finished = [batch for batch in self.batches.values() if batch.is_decided]
        effects: list[Effect] = []
        for batch in finished[: max(0, len(finished) - FINISHED_BATCHES_MAX + 1)]:
            del self.batches[batch.batch]
            keys = {task.decided.row for task in batch.progress if task.decided is not None}
            rows = [Row(DECISION_ROW, key, None) for key in sorted(keys)]
            effects += [
                Persist((Row(BATCH_ROW, batch.batch, None), *rows)),
                Release(batch.batch),
            ]
        return effects

    def _deadline(self, batch: Batch) -> Effect:
        elapsed_us = max(0, self.wall_us() - batch.submitted_wall_us)
        left_us = max(0, batch.contract.body.deadline_us - elapsed_us)
        return SetTimer(DeadlineDue(batch.batch), left_us)

    def _proven_tasks(self, batch: Batch) -> tuple[ProvenTask, ...]:
        if batch.batch not in self._proven and batch.tasks is not None:
            self._proven[batch.batch] = prove_tasks(batch.tasks)
        return self._proven[batch.batch]

    def _contract(self, submit: Submit) -> Contract:
        return Contract(
            mesh=self.mesh,
            nonce=self.placements.sampler.rng.randbytes(16),
            module=submit.module,
            limits=submit.limits,
            requirements=submit.requirements,
            node_type=submit.node_type,
            strategy=submit.strategy,
            priority=submit.priority,
            retries_max=submit.retries_max,
            engine_profiles=(self.engine_profile,),
            deadline_us=submit.deadline_us,
            durability=Durability.LOCAL,
            stewards=(NamedSteward(self.signer.peer, self.store),),
            keys=(KeyFor(self.signer.peer, submit.key),),
            tasks_count=len(submit.tasks),
            tasks_root=tasks_root_of(submit.tasks),
        )


def _lacking(contract: Contract, candidate: Candidate) -> list[str]:
    lacking = [key for key in contract.requirements if key not in candidate.capabilities]
    if contract.node_type not in (None, candidate.node_type):
        lacking.append(f"type:{contract.node_type}")
    if set(contract.engine_profiles).isdisjoint(candidate.engine_profiles):
        lacking += [f"profile:{profile}" for profile in contract.engine_profiles]
    return lacking


def _closest_hint(closest: list[CandidateView]) -> str:
    if not closest:
        return "no device of the mesh may execute tasks"
    best = closest[0]
    return f"closest is {best.name}, which lacks {' '.join(best.missing) or 'nothing but time'}"


def _offered_blobs(batch: Batch) -> list[Effect]:
    blobs = [batch.contract.body.module]
    blobs += [task.input.blob for task in batch.tasks or () if task.input.blob is not None]
    return [Offer(blob, batch.batch) for blob in blobs]


def _outcome_of(decided: Decided) -> Outcome:
    return Outcome(kind=decided.kind, result=decided.result, reason=decided.reason)
