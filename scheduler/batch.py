"""A batch as its steward keeps it: the contract, where each task is, and how it was decided.

Everything heavy (inputs, results, votes) is in the store; a decided task costs a few hundred bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from scheduler.agreement import Comparison
from scheduler.errors import IllegalTransition
from scheduler.lease_history import LeaseHistory
from scheduler.moves import Stewards, is_move, majority_of
from scheduler.paxos import LOWEST, Acceptor, Proposer
from scheduler.placement import Placement
from scheduler.states import TaskEvent, TaskState, next_state
from telemetry.measurement import ANY_KIND
from wire.answers import TaskView
from wire.execution import ExecutionStatus
from wire.ids import BatchId, Digest, PeerId, base32_text, digest_text, peer_text
from wire.membership import Chain
from wire.merkle import inclusion_proofs
from wire.messages import LeaseRef
from wire.signed import Signed, encode_body
from wire.tasks import (
    CHAINS_MAX,
    Contract,
    Epoch,
    Lease,
    LeasedResult,
    Move,
    Outcome,
    OutcomeKind,
    Proof,
    ProvenResult,
    ProvenTask,
    SealedKey,
    Steward,
    Task,
    Vote,
    batch_id_of,
    open_result,
    task_id_of,
)

BATCH_ROW = "batch"
DECISION_ROW = "decision"


PROMISE_ROW = "promise"
STUCK_HINT = (
    "if they never come back, `meshctl resubmit` makes a new task of it; then two results may exist"
)


class BatchRow(Struct, frozen=True, kw_only=True):
    """What is durable at a steward before a submission is accepted."""

    contract: Signed[Contract]
    tasks: tuple[Task, ...]
    submitted_wall_us: int
    epoch: Epoch  # in which it was made
    chains: tuple[Chain, ...] = ()  # of the submitter and the stewards
    # Of who was no steward when it got the batch: the key, and what had been moved by then.
    joining: SealedKey | None = None
    moves: tuple[Move, ...] = ()


class PromiseRow(Struct, frozen=True, kw_only=True):
    """The highest epoch in which this steward has promised to vote; its key is the batch."""

    epoch: Epoch


class DecisionRow(Struct, frozen=True, kw_only=True):
    """What is durable before a vote or an outcome is told: the votes, and what they were about.

    One row holds all outcomes that were voted for at once under one lease, or under none. All votes
    are of one epoch and equal; those of a majority decide. `chains` are those of the submitter, the
    executor and the stewards, for the receipts. `attempts` counts the leases that each task had
    needed until then. `agreeing` are equal results of other executors.
    """

    votes: tuple[Signed[Vote], ...]
    lease: Signed[Lease] | None
    results: dict[int, ProvenResult]
    chains: tuple[Chain, ...]
    decided_wall_us: int
    attempts: dict[int, int] = {}
    agreeing: dict[int, tuple[LeasedResult, ...]] = {}
    stewards: tuple[Steward, ...] = ()  # who decide from now on, where it is a move

    @property
    def is_move(self) -> bool:
        """Whether it ends no task: other stewards do."""
        return is_move(self.votes[0].body)

    @property
    def batch(self) -> BatchId:
        """The batch whose tasks these are."""
        return self.votes[0].body.batch

    @property
    def epoch(self) -> Epoch:
        """The epoch of all votes."""
        return self.votes[0].body.epoch

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """What was voted for."""
        return self.votes[0].body.outcomes

    @property
    def key(self) -> bytes:
        """The key of this row. In an epoch an index is proposed once, so no other row has it."""
        return decision_key(self.votes[0].body)


class Decided(Struct, frozen=True, kw_only=True):
    """What is kept in memory of a decided task."""

    row: bytes
    kind: OutcomeKind
    reason: str
    decided_wall_us: int
    result: Digest | None = None  # as votes name it
    executor: PeerId | None = None
    is_compared: bool = False  # with an equal result of another device
    status: ExecutionStatus | None = None
    exit_code: int | None = None
    detail: str = ""
    output_digest: Digest | None = None
    fuel_used: int | None = None
    run_us: int | None = None


@dataclass(slots=True)
class TaskProgress:
    """One task of a batch. Its state changes only through its Batch, which counts."""

    state: TaskState = TaskState.PENDING
    reason: str = "waiting for a device"
    hint: str | None = None
    attempts: int = 0  # leases given
    failures: int = 0  # of those, the ones that a device failed
    executor: PeerId | None = None  # the last that began
    runs_wanted: int = 1  # by as many devices
    # Those that hold a lease of it, or whose result is here: none of them gets it again.
    engaged: frozenset[PeerId] = frozenset()
    comparison: Comparison | None = None  # of the results that are here, where one does not suffice
    decided: Decided | None = None
    is_hedged: bool = False  # one more device is wanted than its terms say
    is_placing: bool = False
    is_deciding: bool = False
    placed: Placement | None = None  # the offer that led to the lease it has
    failed_on: dict[PeerId, str] | None = None  # with the reason, in the order they failed
    # How often outputs under a lease could not be had, UNUSABLE_MAX when one was wrong.
    unusable: dict[LeaseRef, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the task has no outcome, nor one on its way to the disk."""
        return self.decided is None and not self.is_deciding

    def said(self, text: str) -> str:
        """Return a reason, after what is known of results that are compared."""
        return text if self.comparison is None else f"{self.comparison.text}; {text}"

    @property
    def lacks_runs(self) -> bool:
        """Whether more devices are wanted than are at it or have done it."""
        return self.is_open and len(self.engaged) < self.runs_wanted

    @property
    def is_waiting(self) -> bool:
        """Whether the task waits for a device and is not being offered to any."""
        return self.lacks_runs and not self.is_placing


@dataclass(slots=True, kw_only=True)
class Batch:
    """The tasks of one contract. What is asked about all of them at once is counted as they move.

    `tasks` is None when all are decided: then they are in the store. A device that keeps a copy and
    is no steward (not yet, or no more) has the rank -1: it learns outcomes and says nothing.
    """

    contract: Signed[Contract]
    submitted_wall_us: int  # 0: the time was not known
    tasks: tuple[Task, ...] | None
    made_in: Epoch = LOWEST
    chains: tuple[Chain, ...] = ()
    rank: int = 0  # of this device among the stewards
    acceptor: Acceptor = field(default_factory=Acceptor)
    proposer: Proposer | None = None  # while this device leads the batch, or tries to
    is_claimed: bool = False  # its leader has said that it leads it, on the link that is up
    is_durable: bool = False
    leases_count: int = 0
    lease_history: LeaseHistory = field(default_factory=LeaseHistory)
    joining: SealedKey | None = None  # the batch key, where the contract has none for this device
    moves: tuple[Move, ...] = ()
    move_rows: list[bytes] = field(default_factory=list)  # the keys of their rows in the store
    moving_to: Stewards | None = None  # who shall decide, where this device sees to it
    stuck: str | None = None  # why nothing can be decided
    steward_sets: list[Stewards] = field(init=False)  # by move: who decides comes last
    progress: list[TaskProgress] = field(init=False)
    batch: BatchId = field(init=False)
    text: str = field(init=False)
    states: dict[TaskState, int] = field(init=False)
    undecided_count: int = field(init=False)
    inline_bytes: int = field(init=False)  # of the inputs, in memory until all are decided
    _waiting: OrderedDict[int, None] = field(init=False)
    _proofs: tuple[Proof, ...] | None = None

    def __post_init__(self) -> None:
        """Give each task of the contract a place."""
        count = self.contract.body.tasks_count
        self.steward_sets = [self.contract.body.stewards, *(move.stewards for move in self.moves)]
        self.batch = batch_id_of(self.contract)
        self.text = base32_text(self.batch)
        replicas = self.contract.body.replicas
        self.progress = [TaskProgress(runs_wanted=replicas) for _ in range(count)]
        self.states = {TaskState.PENDING: count}
        self.undecided_count = count
        self.inline_bytes = sum(map(inline_bytes_of, self.tasks or ()))
        self._waiting = OrderedDict.fromkeys(range(count))

    @property
    def epoch(self) -> Epoch:
        """The highest epoch that this steward has heard of."""
        return self.acceptor.promised

    @property
    def task_kind(self) -> str:
        """The kind of its tasks in what devices observe: the node type that they ask for."""
        return self.contract.body.node_type or ANY_KIND

    @property
    def is_leading(self) -> bool:
        """Whether this steward gives leases and proposes outcomes."""
        return self.proposer is not None and self.proposer.is_established

    @property
    def majority_count(self) -> int:
        """How many stewards decide."""
        return majority_of(self.stewards)

    @property
    def stewards(self) -> Stewards:
        """Who decides, by rank."""
        return self.steward_sets[-1]

    @property
    def is_steward(self) -> bool:
        """Whether this device is one of them."""
        return self.rank >= 0

    @property
    def leader(self) -> PeerId:
        """The steward of the epoch."""
        return self.stewards[self.epoch.rank].peer

    def steward_of(self, epoch: Epoch) -> Steward | None:
        """Return the one steward that leases and proposes in an epoch, if that is known here."""
        if epoch.move >= len(self.steward_sets):
            return None
        stewards = self.steward_sets[epoch.move]
        return stewards[epoch.rank] if epoch.rank < len(stewards) else None

    def co_stewards(self) -> list[PeerId]:
        """Return the other stewards, in the order of their ranks."""
        return [one.peer for rank, one in enumerate(self.stewards) if rank != self.rank]

    def take_move(self, row: DecisionRow, named: Steward) -> None:
        """Take up that other stewards decide from now on; this device may be one of them.

        Nobody has voted among them yet, so the first of them may propose at once.
        """
        votes = row.votes[: self.majority_count]
        self.moves = (*self.moves, Move(stewards=row.stewards, votes=votes))
        self.steward_sets.append(row.stewards)
        self.move_rows.append(row.key)
        self.rank = rank_of(named, row.stewards)
        self.acceptor = Acceptor(promised=Epoch(len(self.moves), 0, 0))
        self.proposer = self.moving_to = self.stuck = None
        self.is_claimed = False
        self.withdraw(self.open_indices())
        kept = {chain[0].body.subject: chain for chain in (*self.chains, *row.chains)}
        self.chains = tuple(kept.values())[:CHAINS_MAX]

    @property
    def is_decided(self) -> bool:
        """Whether every task has its outcome."""
        return self.undecided_count == 0

    @property
    def waiting_count(self) -> int:
        """How many tasks wait for a device and are not being offered to any."""
        return len(self._waiting)

    def waiting(self) -> Iterator[int]:
        """Yield the tasks that wait for a device, those that waited longest first."""
        return iter(self._waiting)

    def open_indices(self) -> list[int]:
        """Return the tasks that are not decided."""
        return [index for index, task in enumerate(self.progress) if task.decided is None]

    def decided_indices(self) -> tuple[int, ...]:
        """Return the tasks that are decided."""
        return tuple(index for index, task in enumerate(self.progress) if task.decided is not None)

    def own_key(self, own: PeerId) -> bytes:
        """Return the batch key, sealed to this device."""
        if self.joining is not None:
            return self.joining
        return next(key.box for key in self.contract.body.keys if key.recipient == own)

    def proven(self, index: int) -> ProvenTask:
        """Return a task with its proof. Only while a task is undecided."""
        if self.tasks is None:
            raise IllegalTransition("the tasks of a decided batch are in the store")
        if self._proofs is None:
            self._proofs = inclusion_proofs([encode_body(task) for task in self.tasks])
        return ProvenTask(received=encode_body(self.tasks[index]), proof=self._proofs[index])

    def move(self, index: int, event: TaskEvent, reason: str = "", hint: str | None = None) -> None:
        """Bring a task to its next state. Raises IllegalTransition."""
        task = self.progress[index]
        before, task.state = task.state, next_state(task.state, event)
        self.states[before] -= 1
        self.states[task.state] = self.states.get(task.state, 0) + 1
        task.reason = reason
        task.hint = hint
        self._note(index)

    def engage(self, index: int, executor: PeerId) -> None:
        """Note that a device is at a task, or has done it."""
        self.progress[index].engaged |= {executor}
        self._note(index)

    def disengage(self, index: int, executor: PeerId) -> None:
        """Note that a device does not do a task."""
        self.progress[index].engaged -= {executor}
        self._note(index)

    def want_runs(self, index: int, count: int) -> None:
        """Note how many devices have to run a task."""
        self.progress[index].runs_wanted = count
        self._note(index)

    def hedge(self, index: int) -> None:
        """Note that a second device is wanted for a task that takes long."""
        self.progress[index].is_hedged = True
        self.want_runs(index, self.progress[index].runs_wanted + 1)

    def hedge_no_more(self, index: int) -> None:
        """Note that one of the two devices gave up, so the other one is enough."""
        self.progress[index].is_hedged = False
        self.want_runs(index, self.progress[index].runs_wanted - 1)

    def start_over(self, index: int) -> None:
        """Forget who is at a task and what came out: another steward leads it."""
        task = self.progress[index]
        task.engaged, task.comparison = frozenset(), None
        task.runs_wanted, task.is_hedged = self.contract.body.replicas, False
        self._note(index)

    def place(self, indices: Iterable[int]) -> None:
        """Note that tasks are being offered."""
        for index in indices:
            self.progress[index].is_placing = True
            self._note(index)

    def withdraw(self, indices: Iterable[int]) -> None:
        """Note that outcomes which this device proposed may not be what is decided."""
        for index in indices:
            self.progress[index].is_deciding = False
            self._note(index)

    def displace(self, indices: Iterable[int]) -> None:
        """Note that tasks are not being offered any more."""
        for index in indices:
            self.progress[index].is_placing = False
            self._note(index)

    def begin_deciding(self, indices: Iterable[int]) -> None:
        """Note that outcomes of tasks are on their way to the disk."""
        for index in indices:
            self.progress[index].is_deciding = True
            self._note(index)

    def decide(self, row: DecisionRow) -> list[int]:
        """Take up a durable decision; return the indices that were not decided before.

        The row holds all that a receipt needs, so a task with a result is settled with it.
        """
        fresh = []
        for index, outcome in row.outcomes.items():
            task = self.progress[index]
            if task.decided is not None or outcome.kind is OutcomeKind.MOVED:
                continue  # the register is written once, and a move ends nothing
            fresh.append(index)
            task.decided = _decided(row, index, outcome)
            task.executor = task.decided.executor
            task.attempts = max(task.attempts, row.attempts.get(index, 0))
            task.is_deciding = False
            task.failed_on = task.unusable = task.placed = task.comparison = None
            task.engaged = frozenset()
            self.undecided_count -= 1
            self.move(index, _DECISIONS[outcome.kind], outcome.reason)
            if outcome.kind is OutcomeKind.RESULT:
                self.move(index, TaskEvent.RECEIPT_GIVEN, outcome.reason)
        if self.is_decided:
            self.tasks = self._proofs = None
        return fresh

    def _note(self, index: int) -> None:
        task = self.progress[index]
        if task.is_waiting:
            self._waiting[index] = None
            if task.comparison is not None:  # what is nearly done comes first
                self._waiting.move_to_end(index, last=False)
        else:
            self._waiting.pop(index, None)

    def view(self, index: int, name_of: Callable[[PeerId], str]) -> TaskView:
        """Return a task as people see it."""
        task, contract = self.progress[index], self.contract.body
        decided = task.decided
        return TaskView(
            id=str(task_id_of(self.contract, index)),
            batch=self.text,
            index=index,
            state=str(task.state),
            reason=(self.stuck if decided is None else None) or task.reason or None,
            hint=STUCK_HINT if self.stuck is not None and decided is None else task.hint,
            is_decided=decided is not None,
            outcome=None if decided is None else str(decided.kind),
            status=None if decided is None or decided.status is None else str(decided.status),
            exit_code=None if decided is None else decided.exit_code,
            detail=None if decided is None else decided.detail or None,
            executor=None if task.executor is None else peer_text(task.executor),
            executor_name=None if task.executor is None else name_of(task.executor),
            attempts=task.attempts,
            module=digest_text(contract.module.digest),
            durability=str(contract.durability),
            output_digest=(
                None
                if decided is None or decided.output_digest is None
                else digest_text(decided.output_digest)
            ),
            fuel_used=None if decided is None else decided.fuel_used,
            run_us=None if decided is None else decided.run_us,
            submitted_wall_us=self.submitted_wall_us or None,
            decided_wall_us=None if decided is None else decided.decided_wall_us or None,
        )


_DECISIONS = {
    OutcomeKind.RESULT: TaskEvent.RESULT_DECIDED,
    OutcomeKind.CANCELLED: TaskEvent.CANCEL_DECIDED,
    OutcomeKind.FAILED: TaskEvent.FAILURE_DECIDED,
}


def rank_of(named: Steward, stewards: Stewards) -> int:
    """Return the rank of a steward among others, -1 if it is none of them."""
    return stewards.index(named) if named in stewards else -1


def inline_bytes_of(task: Task) -> int:
    """Return how many bytes of a task's input are in the task itself."""
    return 0 if task.input.inline is None else len(task.input.inline)


def decision_key(vote: Vote) -> bytes:
    """Return the key of the row of a vote: batch, epoch and first index."""
    epoch = vote.epoch
    numbers = (epoch.move.to_bytes(4, "big"), epoch.round.to_bytes(4, "big"), bytes([epoch.rank]))
    return vote.batch + b"".join(numbers) + min(vote.outcomes).to_bytes(2, "big")


def _decided(row: DecisionRow, index: int, outcome: Outcome) -> Decided:
    decided = Decided(
        row=row.key,
        kind=outcome.kind,
        reason=outcome.reason,
        decided_wall_us=row.decided_wall_us,
        result=outcome.result,
    )
    if index not in row.results:
        return decided
    result = open_result(row.results[index])
    return replace(
        decided,
        executor=result.executor,
        is_compared=index in row.agreeing,
        status=result.status,
        # A run that was ended has no exit code, though the signed result says 0.
        exit_code=result.exit_code if result.status is ExecutionStatus.EXITED else None,
        detail=result.detail,
        output_digest=result.output_digest,
        fuel_used=result.fuel_used,
        run_us=result.wall_us,
    )
