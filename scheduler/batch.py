"""A batch as its steward keeps it: the contract, where each task is, and how it was decided.

Everything heavy (inputs, results, votes) is in the store; a decided task costs a few hundred bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from scheduler.states import TaskEvent, TaskState, next_state
from wire.answers import TaskView
from wire.execution import ExecutionStatus
from wire.ids import BatchId, Digest, PeerId, digest_text, peer_text
from wire.membership import Chain
from wire.signed import Signed
from wire.tasks import (
    Contract,
    Lease,
    Outcome,
    OutcomeKind,
    ProvenResult,
    Task,
    Vote,
    batch_id_of,
    open_result,
    task_id_of,
)

BATCH_ROW = "batch"
DECISION_ROW = "decision"


class BatchRow(Struct, frozen=True, kw_only=True):
    """What is durable before a submission is accepted."""

    contract: Signed[Contract]
    tasks: tuple[Task, ...]
    submitted_wall_us: int


class DecisionRow(Struct, frozen=True, kw_only=True):
    """What is durable before an outcome is told: the vote, and what it was about.

    One row holds all outcomes that were decided at once under one lease, or under none.
    `chains` are those of the submitter, the executor and the stewards, for the receipts.
    """

    vote: Signed[Vote]
    lease: Signed[Lease] | None
    results: dict[int, ProvenResult]
    chains: tuple[Chain, ...]
    decided_wall_us: int


class Decided(Struct, frozen=True, kw_only=True):
    """What is kept in memory of a decided task."""

    row: bytes
    kind: OutcomeKind
    reason: str
    decided_wall_us: int
    result: Digest | None = None  # as votes name it
    executor: PeerId | None = None
    status: ExecutionStatus | None = None
    exit_code: int | None = None
    detail: str = ""
    output_digest: Digest | None = None
    fuel_used: int | None = None
    run_us: int | None = None


@dataclass(slots=True)
class TaskProgress:
    """One task of a batch."""

    state: TaskState = TaskState.PENDING
    reason: str = "waiting for a device"
    hint: str | None = None
    attempts: int = 0
    executor: PeerId | None = None
    decided: Decided | None = None
    is_placing: bool = False
    is_deciding: bool = False
    failed_on: dict[PeerId, str] = field(default_factory=dict)

    def move(self, event: TaskEvent, reason: str = "", hint: str | None = None) -> None:
        """Go to the next state. Raises IllegalTransition."""
        self.state = next_state(self.state, event)
        self.reason = reason
        self.hint = hint


@dataclass(slots=True, kw_only=True)
class Batch:
    """The tasks of one contract."""

    contract: Signed[Contract]
    submitted_wall_us: int
    tasks: tuple[Task, ...] | None  # None when all are decided: then they are in the store
    hold_until_us: int = 0
    is_durable: bool = False
    attempts: int = 0
    progress: list[TaskProgress] = field(default_factory=list)
    batch: BatchId = field(init=False)

    def __post_init__(self) -> None:
        """Give each task of the contract a place."""
        self.batch = batch_id_of(self.contract)
        if not self.progress:
            self.progress = [TaskProgress() for _ in range(self.contract.body.tasks_count)]

    @property
    def is_decided(self) -> bool:
        """Whether every task has its outcome."""
        return all(task.decided is not None for task in self.progress)

    def own_key(self, own: PeerId) -> bytes:
        """Return the batch key, sealed to this device."""
        return next(key.box for key in self.contract.body.keys if key.recipient == own)

    def pending(self) -> list[int]:
        """Return the tasks that wait for a device and are not being offered to any."""
        return [
            index
            for index, task in enumerate(self.progress)
            if task.state is TaskState.PENDING and not task.is_placing and not task.is_deciding
        ]

    def decide(self, key: bytes, row: DecisionRow) -> list[int]:
        """Take up a durable decision; return the indices that were not decided before."""
        fresh = []
        for index, outcome in row.vote.body.outcomes.items():
            task = self.progress[index]
            if task.decided is not None:
                continue  # the register is written once
            fresh.append(index)
            task.decided = _decided(key, row, index, outcome)
            task.executor = task.decided.executor
            task.is_deciding = False
            task.failed_on = {}
            task.move(_DECISIONS[outcome.kind], outcome.reason)
        if self.is_decided:
            self.tasks = None
        return fresh

    def view(self, index: int, name_of: Callable[[PeerId], str]) -> TaskView:
        """Return a task as people see it."""
        task, contract = self.progress[index], self.contract.body
        decided = task.decided
        return TaskView(
            id=str(task_id_of(self.contract, index)),
            batch=str(task_id_of(self.contract, 0)).split(".", 1)[0],
            index=index,
            state=str(task.state),
            reason=task.reason or None,
            hint=task.hint,
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
            submitted_wall_us=self.submitted_wall_us,
            decided_wall_us=None if decided is None else decided.decided_wall_us,
        )


_DECISIONS = {
    OutcomeKind.RESULT: TaskEvent.RESULT_DECIDED,
    OutcomeKind.CANCELLED: TaskEvent.CANCEL_DECIDED,
    OutcomeKind.FAILED: TaskEvent.FAILURE_DECIDED,
}


def decision_key(batch: BatchId, first_index: int) -> bytes:
    """Return the key of a decision's row. An index is decided once, so it is never used again."""
    return batch + first_index.to_bytes(2, "big")


def _decided(key: bytes, row: DecisionRow, index: int, outcome: Outcome) -> Decided:
    decided = Decided(
        row=key,
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
        status=result.status,
        exit_code=result.exit_code,
        detail=result.detail,
        output_digest=result.output_digest,
        fuel_used=result.fuel_used,
        run_us=result.wall_us,
    )
