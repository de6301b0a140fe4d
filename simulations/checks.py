"""What must never happen, checked while a run goes on.

Each check reads what the nodes store, send and answer; none reads a node's memory. The names (S1,
S2 ...) are those of docs/simulation.md. A breach raises InvariantBroken at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

from p2p.observations import Slot
from scheduler.batch import DecisionRow, PromiseRow
from scheduler.receipt import receipt_to_file, verify_receipt
from scheduler.states import TRANSITIONS, TaskState
from simulations.budget import Budget
from simulations.engine import US_PER_S, Engine
from simulations.errors import InvariantBroken
from simulations.evidence import signed_parts
from simulations.host import SimulatedHost
from simulations.register import Register
from telemetry.outcomes import NO_COUNTS, Counts
from wire import effects as do
from wire import events as on
from wire.answers import Accepted, ReceiptView, TaskList, TaskView
from wire.codec import Decoder
from wire.effects import Effect, Row, RunId
from wire.errors import MalformedFrame
from wire.events import Event
from wire.ids import BatchId, PeerId, StoreId, TaskId, task_id_from_text
from wire.messages import (
    LeaseGranted,
    Message,
    OfferAccepted,
    Promised,
    ReceiptGiven,
    RecordsGiven,
    Settled,
)
from wire.records import Record, RecordKind, decode_observations
from wire.signed import Signed, SignedBody, Verifier, signing_bytes
from wire.tasks import (
    Contract,
    Epoch,
    Lease,
    Outcome,
    Receipt,
    Vote,
    batch_id_of,
    open_result,
)

BREAKER_MILLICELSIUS = 85_000

_CHECKED_MESSAGES = (OfferAccepted, Promised, LeaseGranted, Settled, ReceiptGiven, RecordsGiven)

_Body = TypeVar("_Body", bound=SignedBody)


@dataclass(frozen=True, slots=True)
class AcceptedTask:
    """A task that a node answered for, and the store in which it promised to keep it."""

    task: TaskId
    host: int
    store: StoreId
    at_us: int


class Checks:
    """Watches all honest devices of a run: what a liar says is no breach."""

    observed_events = (on.Restarted, on.Executed, on.ExecutionFailed, on.Sampled)
    observed_effects = (*_CHECKED_MESSAGES, do.Execute, do.Kill, do.Persist, do.Answer)

    def __init__(
        self,
        engine: Engine,
        verifier: Verifier,
        budget: Budget,
        *,
        members_count: int = 0,
        liars: frozenset[int] = frozenset(),
        on_decided: Callable[[BatchId, int, Outcome], None] = lambda *_: None,
    ) -> None:
        self.register = Register(self._is_liar, lambda: engine.now_us, on_decided)
        self.looked: Counter[str] = Counter()  # how often each invariant was looked at
        self.accepted: list[AcceptedTask] = []
        self.seen: Counter[str] = Counter()  # what happened at least sometimes
        self._engine = engine
        self._verifier = verifier
        self.budget = budget
        self._members_count = members_count  # as many devices as a directory holds
        self._started_us: dict[PeerId, int] = {}
        self._receipts = Decoder(Receipt, verifier)
        self._promises: dict[tuple[StoreId, BatchId], Epoch] = {}
        self._kept: set[tuple[StoreId, BatchId]] = set()
        self._leases: dict[tuple[PeerId, StoreId, BatchId, Epoch, int], bytes] = {}
        self._runs: dict[PeerId, set[RunId]] = {}
        self._states: dict[tuple[PeerId, StoreId, str], str] = {}
        self._views: dict[str, tuple[object, ...]] = {}
        self._receipts_checked: set[bytes] = set()
        self._sends: Counter[PeerId] = Counter()
        self._sent_bytes: Counter[PeerId] = Counter()
        self._second = 0
        self._liar_nodes = liars
        self._liars: set[PeerId] = set()
        self._is_hot: set[PeerId] = set()
        self._observed: dict[StoreId, dict[Slot, Counts]] = {}

    def watch(self, host: SimulatedHost) -> None:
        """Watch a device's disk too."""
        if host.index in self._liar_nodes:
            self._liars.add(host.peer)
        else:
            host.disk.on_durable = partial(self._saw_durable, host)

    def saw_rollback(self, host: SimulatedHost) -> None:
        """A device's disk is what it was earlier, unseen: so are the states that it shows."""
        self._states = {
            place: state for place, state in self._states.items() if place[0] != host.peer
        }
        self._observed.pop(host.disk.store, None)

    def latencies_us(self) -> list[int]:
        """Return for every decided task how long it took from accepted to decided."""
        decided_us = self.register.decided_us
        places = [(one, (one.task.batch, one.task.index)) for one in self.accepted]
        return [decided_us[place] - one.at_us for one, place in places if place in decided_us]

    def _is_liar(self, peer: PeerId) -> bool:
        return peer in self._liars

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """Note what ended or began."""
        if host.peer in self._liars:
            return
        match event:
            case on.Restarted():
                self._runs[host.peer] = set()
                self._started_us[host.peer] = self._engine.now_us
            case on.Executed(run=run) | on.ExecutionFailed(run=run):
                self._runs[host.peer].discard(run)
            case on.Sampled():
                self._note_heat(host)

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """Check what a node wants before it is done."""
        if host.peer in self._liars:
            return
        match effect:
            case do.Send(_, message):
                self._check_told(host, message)
            case do.Execute(run=run):
                self._check_run(host, run)
            case do.Kill(run):
                self._runs[host.peer].discard(run)
            case do.Persist(rows):
                for vote in (part for row in rows for part in _signed(row.value, Vote)):
                    self._check_own_vote(host, vote)
            case do.Answer(_, value):
                self._check_answer(host, value)

    # What is durable.

    def _saw_durable(self, host: SimulatedHost, row: Row) -> None:
        for contract in _signed(row.value, Contract):
            self.register.add_contract(contract)
            self._kept.add((host.disk.store, batch_id_of(contract)))
        if isinstance(row.value, PromiseRow):
            self._promises[host.disk.store, BatchId(row.key)] = row.value.epoch
        if isinstance(row.value, DecisionRow) and row.value.stewards:
            self.register.add_stewards(row.value.stewards)
        for vote in _signed(row.value, Vote):
            self.looked["S2"] += 1
            self.register.add_vote(vote)
        if isinstance(row.value, DecisionRow):
            for index in row.value.results:
                self._check_quorum(host, row.value, index)
        for part in signed_parts(row.value):
            if isinstance(part, Signed):
                self._check_signature(host, part)

    def _check_quorum(self, host: SimulatedHost, row: DecisionRow, index: int) -> None:
        """S4: what an honest steward votes for has as many equal results as were asked for."""
        quorum = self.register.quorum(row.batch)
        others = [one.result for one in row.agreeing.get(index, ())]
        if quorum == 1 and not others:
            return
        self.looked["S4"] += 1
        try:
            results = [open_result(one) for one in (row.results[index], *others)]
        except MalformedFrame as error:
            raise InvariantBroken(
                f"S3: {host.device.name} votes for what is none: {error}"
            ) from error
        executors = {one.executor for one in results}
        values = {(one.index, one.status, one.exit_code, one.output_digest) for one in results}
        if len(executors) < len(results) or len(results) < quorum or len(values) > 1:
            where = f"{row.batch.hex()}.{index}"
            raise InvariantBroken(
                f"S4: {host.device.name} votes for {where} with {len(values)} different results"
                f" of {len(executors)} devices; its quorum is {quorum}"
            )

    def _check_signature(self, host: SimulatedHost, part: Signed[SignedBody]) -> None:
        """S12: what a node keeps is signed by who it says."""
        self.looked["S12"] += 1
        message = signing_bytes(type(part.body).DOMAIN, part.received)
        if not self._verifier.verify(message, part.signature, part.signer):
            kind = type(part.body).__name__
            raise InvariantBroken(f"S12: {host.device.name} keeps a forged {kind}")

    def _check_own_vote(self, host: SimulatedHost, vote: Signed[Vote]) -> None:
        """S8: a device votes only as the store that it has, and only on what that store keeps."""
        if vote.signer != host.peer:
            return
        self.looked["S8"] += 1
        if self.register.has_counted(vote):
            return  # it was given before, perhaps by the store of before, and is kept again
        if vote.body.store != host.disk.store:
            raise InvariantBroken(f"S8: {host.device.name} votes as a store that it lost")
        if (host.disk.store, vote.body.batch) not in self._kept:
            raise InvariantBroken(f"S8: {host.device.name} votes on a batch that it does not keep")
        promised = self._promises.get((host.disk.store, vote.body.batch))
        if promised is not None and vote.body.epoch < promised:
            raise InvariantBroken(f"S8: {host.device.name} votes in {vote.body.epoch}: {promised}")

    # What is told to other devices.

    def _check_told(self, host: SimulatedHost, message: Message) -> None:
        match message:
            case OfferAccepted():
                self._check_cool(host)
            case LeaseGranted(lease=lease):
                self._check_lease(host, lease)
            case Settled(batch=batch, outcomes=outcomes):
                for index, outcome in outcomes.items():
                    if outcome is not None:
                        self._check_outcome(host, batch, index, outcome.kind)
            case ReceiptGiven(receipt=receipt):
                self._check_receipt(host, receipt)
            case Promised(batch=batch, epoch=epoch):
                self._check_promise(host, batch, epoch)
            case RecordsGiven(records=records):
                for record in records:
                    if record.body.kind == RecordKind.OBSERVATIONS:
                        self._check_observations(host, record)

    def _check_promise(self, host: SimulatedHost, batch: BatchId, epoch: Epoch) -> None:
        """S8: a promise is durable before it is told."""
        self.looked["S8"] += 1
        promised = self._promises.get((host.disk.store, batch))
        if promised is None or promised < epoch:
            raise InvariantBroken(
                f"S8: {host.device.name} promises {epoch}, and {promised} is kept"
            )

    def _check_observations(self, host: SimulatedHost, record: Signed[Record]) -> None:
        """S10: who observed signs it, and what one store counted never falls."""
        self.looked["S10"] += 1
        owner = record.body.owner
        if record.signer != owner:
            raise InvariantBroken(
                f"S10: {host.device.name} passes on observations that another key signed"
            )
        if owner != host.peer:
            return
        counted = self._observed.setdefault(host.disk.store, {})
        for one in decode_observations(record.body.body).slots:
            counts = Counts(one.valid_count, one.failed_count, one.disputed_count)
            before = counted.get(one.slot, counts)
            if before.beyond(counts) != NO_COUNTS:
                raise InvariantBroken(f"S10: {host.device.name} counts {counts} after {before}")
            counted[one.slot] = counts

    def _check_lease(self, host: SimulatedHost, lease: Signed[Lease]) -> None:
        """S8: within an epoch no attempt number is given to two leases, not even by a restart."""
        self.looked["S8"] += 1
        body = lease.body
        if body.store != host.disk.store:
            raise InvariantBroken(f"S8: {host.device.name} leases as a store that it lost")
        name = (lease.signer, body.store, body.batch, body.epoch, body.attempt)
        if self._leases.setdefault(name, lease.received) != lease.received:
            raise InvariantBroken(f"S8: attempt {body.attempt} in {body.epoch} names two leases")

    def _check_outcome(self, host: SimulatedHost, batch: BatchId, index: int, kind: str) -> None:
        """S2, S8: what is told is what the durable votes say."""
        self.looked["S2"] += 1
        outcome = self.register.outcomes.get((batch, index))
        where = f"{batch.hex()}.{index}"
        if outcome is None:
            if self.register.has_lying_steward(batch):
                return  # who signs for honest ones cannot be told from here
            raise InvariantBroken(f"S8: {host.device.name} tells how {where} ended, and no vote")
        if outcome.kind != kind:
            raise InvariantBroken(f"S2: {host.device.name} says {kind} of {where}: {outcome}")

    def _check_receipt(self, host: SimulatedHost, receipt: Receipt) -> None:
        """S3: contract, task, lease, result, votes and chains, as anyone would check them."""
        file = receipt_to_file(receipt)
        if file in self._receipts_checked:
            return
        self._receipts_checked.add(file)
        self.looked["S3"] += 1
        verdict = verify_receipt(file, verifier=self._verifier, mesh=host.device.mesh)
        if not verdict.is_good:
            faults = ", ".join(verdict.faults)
            raise InvariantBroken(f"S3: a receipt of {host.device.name} is not good: {faults}")
        for move in receipt.moves:
            for vote in move.votes:
                self.register.add_vote(vote)
        for vote in receipt.votes:
            self.register.add_vote(vote)
        self.seen["receipt.good"] += 1

    # What runs.

    def _check_run(self, host: SimulatedHost, run: RunId) -> None:
        """S5: no more leases at work than a device may hold, and no run begun twice."""
        self.looked["S5"] += 1
        runs = self._runs[host.peer]
        if run in runs:
            raise InvariantBroken(f"S5: {host.device.name} starts {run} twice")
        runs.add(run)
        leases_count = len({(one.batch, one.epoch, one.attempt) for one in runs})
        if leases_count > self.budget.leases_max:
            raise InvariantBroken(f"S5: {host.device.name} works under {leases_count} leases")

    def _note_heat(self, host: SimulatedHost) -> None:
        if host.temperature_millicelsius > BREAKER_MILLICELSIUS:
            self._is_hot.add(host.peer)
        else:
            self._is_hot.discard(host.peer)

    def _check_cool(self, host: SimulatedHost) -> None:
        """S7: a device that knows it is too hot takes no work."""
        self.looked["S7"] += 1
        if host.peer in self._is_hot:
            raise InvariantBroken(f"S7: {host.device.name} accepts an offer at over 85 C")

    def count_sent(self, origin: PeerId, target: PeerId, size_bytes: int) -> None:
        """S11: a bound on what a node sends a second."""
        second = self._engine.now_us // US_PER_S
        if second != self._second:
            self.looked["S11"] += len(self._sends)
            self._second = second
            self._sends.clear()
            self._sent_bytes.clear()
        if origin in self._liars:
            return
        self._sent_bytes[origin] += size_bytes
        if self._sent_bytes[origin] > self.budget.bytes_per_second_max:
            self._check_bytes(origin)
        if target in self._liars:
            return  # who lies may ask for any number of answers
        self._sends[origin] += 1
        if self._sends[origin] > self.budget.sends_per_second_max:
            self._check_sends(origin)

    def _check_sends(self, origin: PeerId) -> None:
        sends_count = self._sends[origin]
        if sends_count > self.budget.sends_max(up_us=self._up_us(origin)):
            raise InvariantBroken(f"S11: {origin.hex()} sends {sends_count} in one second")

    def _check_bytes(self, origin: PeerId) -> None:
        sent_bytes = self._sent_bytes[origin]
        up_us, members_count = self._up_us(origin), self._members_count
        if sent_bytes > self.budget.bytes_max(up_us=up_us, members_count=members_count):
            raise InvariantBroken(f"S11: {origin.hex()} sends {sent_bytes} bytes in one second")

    def _up_us(self, peer: PeerId) -> int:
        return self._engine.now_us - self._started_us.get(peer, 0)

    # What people are told.

    def _check_answer(self, host: SimulatedHost, value: object) -> None:
        match value:
            case Accepted(tasks=tasks):
                self._check_accepted(host, [task_id_from_text(text) for text in tasks])
            case TaskView():
                self._check_view(host, value)
            case TaskList(tasks=views):
                for view in views:
                    self._check_view(host, view)
            case ReceiptView(receipt=file):
                self._check_receipt(host, self._receipts.decode(file))

    def _check_accepted(self, host: SimulatedHost, tasks: list[TaskId]) -> None:
        """S1: what is accepted is durable first."""
        for task in tasks:
            self.looked["S1"] += 1
            if (host.disk.store, task.batch) not in self._kept:
                raise InvariantBroken(f"S1: {task} was accepted before it was durable")
            self.accepted.append(
                AcceptedTask(task, host.index, host.disk.store, self._engine.now_us)
            )

    def _check_view(self, host: SimulatedHost, view: TaskView) -> None:
        """S6: states change only as they may. S2: all views of a decided task agree."""
        self.looked["S6"] += 1
        place = (host.peer, host.disk.store, view.id)
        before = self._states.get(place, view.state)
        self._states[place] = view.state
        if view.state not in LATER_STATES[before]:
            raise InvariantBroken(f"S6: {view.id} went from {before} to {view.state}")
        if view.is_decided != TaskState(view.state).is_decided:
            raise InvariantBroken(f"S6: {view.id} is {view.state}, decided: {view.is_decided}")
        if view.attempts > 1:
            self.seen["task.tried_again"] += 1
        if view.is_decided:
            task = task_id_from_text(view.id)
            self._check_outcome(host, task.batch, task.index, str(view.outcome))
            end = (view.outcome, view.status, view.exit_code, view.output_digest, view.executor)
            if self._views.setdefault(view.id, end) != end:
                raise InvariantBroken(f"S2: {view.id} ended as {self._views[view.id]} and {end}")


def _signed(whole: object, kind: type[_Body]) -> list[Signed[_Body]]:
    found = [
        part
        for part in signed_parts(whole)
        if isinstance(part, Signed) and isinstance(part.body, kind)
    ]
    return cast(list[Signed[_Body]], found)


def _later_states() -> dict[str, frozenset[str]]:
    """Return for each state of a task those it may be in later: views may skip some."""
    later = {state: {state} for state in TaskState}
    for (before, _), after in TRANSITIONS.items():
        later[before].add(after)
    for _ in TaskState:
        for state in TaskState:
            later[state] |= {far for near in later[state] for far in later[near]}
    return {str(state): frozenset(map(str, states)) for state, states in later.items()}


LATER_STATES = _later_states()
