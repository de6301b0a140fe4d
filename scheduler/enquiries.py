"""Answers what people ask about tasks: where they are, what came out, and the receipt.

What is not in memory is loaded from the store; a question that nobody waits for is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec.structs import replace

from scheduler.batch import BATCH_ROW, DECISION_ROW, Batch, BatchRow, DecisionRow
from scheduler.errors import ReceiptIncomplete
from scheduler.receipt import build_receipt
from scheduler.references import resolve
from scheduler.states import TaskState
from scheduler.waiters import WAITERS_MAX, Waiters, too_many_refusal
from wire.answers import (
    Answer as AnswerValue,
)
from wire.answers import (
    ReceiptView,
    RefusalCode,
    Refused,
    ResultView,
    TaskList,
    TaskView,
    WhyView,
)
from wire.commands import (
    CancelTask,
    GetReceipt,
    GetResult,
    GetTask,
    ListTasks,
    WaitBatch,
    WaitTask,
    WhyTask,
)
from wire.effects import Answer, Effect, Load
from wire.events import Loaded
from wire.ids import BatchId, PeerId
from wire.membership import Genesis
from wire.signed import Signed, encode_body
from wire.tasks import OutcomeKind, open_result, prove_task

Enquiry: TypeAlias = (
    ListTasks | GetTask | WhyTask | WaitTask | WaitBatch | GetResult | CancelTask | GetReceipt
)
DOUBTFUL = "doubtful: its device is convicted of another wrong result, and no other ran this task"
RUN_AGAIN = "submit it again, with --replicas 3 if it matters"

Then = Callable[[DecisionRow, BatchRow], AnswerValue]


@dataclass(frozen=True, slots=True)
class LoadToken:
    """Names a question that waits for the store."""

    number: int


@dataclass(slots=True, kw_only=True)
class _Reading:
    request: int
    batch: Batch
    then: Then
    decision: DecisionRow | None = None


@dataclass(slots=True, kw_only=True)
class Enquiries:
    """The questions about this device's tasks."""

    own: PeerId
    genesis: Signed[Genesis]
    batches: dict[BatchId, Batch]  # the steward's
    name_of: Callable[[PeerId], str]
    cancel: Callable[[Batch, int], list[Effect]]
    is_convicted: Callable[[PeerId], bool]
    why: Callable[[Batch, int], WhyView]
    _readings: dict[int, _Reading] = field(default_factory=dict)
    _waiters: Waiters = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        """Begin with nobody waiting."""
        self._waiters = Waiters(view=self._view)

    def on_asked(
        self,
        request: int,
        command: Enquiry,
    ) -> list[Effect]:
        """Answer now, or when there is an answer."""
        if isinstance(command, ListTasks):
            return [Answer(request, self._list(command.limit))]
        found = resolve(self.batches, command.task)
        if isinstance(found, Refused):
            return [Answer(request, found)]
        batch, index = found
        match command:
            case GetTask():
                return [Answer(request, self._view(batch, index))]
            case WhyTask():
                return [Answer(request, self.why(batch, index))]
            case WaitTask():
                return self._waiters.wait(request, batch, index)
            case WaitBatch():
                return self._waiters.wait(request, batch, None)
            case CancelTask():
                return [*self.cancel(batch, index), *self._waiters.wait(request, batch, index)]
            case GetResult():
                return self._result(request, batch, index)
            case GetReceipt():
                return self._receipt(request, batch, index, command)

    def on_asked_no_more(self, request: int) -> None:
        """Whoever asked has gone."""
        self._waiters.drop(request)
        for number in [n for n, one in self._readings.items() if one.request == request]:
            del self._readings[number]

    def on_changed(self, batch: Batch, indices: Sequence[int]) -> list[Effect]:
        """Tell those who wait for tasks."""
        return self._waiters.on_changed(batch, indices)

    def on_loaded(self, loaded: Loaded) -> list[Effect]:
        """A row came from the store."""
        number = loaded.token.number if isinstance(loaded.token, LoadToken) else 0
        reading = self._readings.get(number)
        if reading is None:
            return []
        value = loaded.rows[0].value if loaded.rows else None
        if reading.decision is None and isinstance(value, DecisionRow):
            reading.decision = value
            return [Load(BATCH_ROW, reading.batch.batch, 1, loaded.token)]
        del self._readings[number]
        if reading.decision is None or not isinstance(value, BatchRow):
            gone = Refused(
                code=RefusalCode.NOT_FOUND, message="the task has been forgotten meanwhile"
            )
            return [Answer(reading.request, gone)]
        return [Answer(reading.request, reading.then(reading.decision, value))]

    def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        counts = {str(state): 0 for state in TaskState}
        for batch in self.batches.values():
            for state, count in batch.states.items():
                counts[str(state)] += count
        return counts

    def _list(self, limit: int) -> TaskList:
        views: list[TaskView] = []
        for batch in reversed(self.batches.values()):
            if not batch.is_durable:
                continue
            for index in range(len(batch.progress)):
                if len(views) == limit:
                    return TaskList(tasks=views, is_truncated=True)
                views.append(self._view(batch, index))
        return TaskList(tasks=views, is_truncated=False)

    def _view(self, batch: Batch, index: int) -> TaskView:
        view, decided = batch.view(index, self.name_of), batch.progress[index].decided
        if decided is None or decided.executor is None or decided.is_compared:
            return view
        if not self.is_convicted(decided.executor):
            return view
        return replace(view, reason=DOUBTFUL, hint=RUN_AGAIN)

    def _result(self, request: int, batch: Batch, index: int) -> list[Effect]:
        decided = batch.progress[index].decided
        if decided is None or decided.kind is not OutcomeKind.RESULT:
            return [Answer(request, self._without_result(batch, index))]

        def answer(decision: DecisionRow, _: BatchRow) -> AnswerValue:
            result = open_result(decision.results[index])
            return ResultView(
                task=self._view(batch, index),
                index=index,
                output=result.output,
                log=result.log,
                box=batch.own_key(self.own),
            )

        return self._read(request, batch, decided.row, answer)

    def _receipt(self, request: int, batch: Batch, index: int, command: GetReceipt) -> list[Effect]:
        decided = batch.progress[index].decided
        if decided is None:
            return [Answer(request, self._without_result(batch, index))]

        def answer(decision: DecisionRow, row: BatchRow) -> AnswerValue:
            try:
                receipt = build_receipt(
                    self.genesis,
                    batch.contract,
                    prove_task(row.tasks, index),
                    decision.lease,
                    decision.results.get(index),
                    decision.votes,
                    (*batch.chains, *decision.chains),
                    decision.agreeing.get(index, ()),
                    batch.moves[: decision.epoch.move],
                )
            except ReceiptIncomplete as error:
                return Refused(code=RefusalCode.INTERNAL, message=str(error))
            return ReceiptView(
                task=self._view(batch, index).id,
                receipt=encode_body(receipt),
                box=batch.own_key(self.own) if command.with_digest_key else None,
            )

        return self._read(request, batch, decided.row, answer)

    def _read(self, request: int, batch: Batch, row: bytes, then: Then) -> list[Effect]:
        if len(self._readings) >= WAITERS_MAX:
            return [Answer(request, too_many_refusal())]
        self._count += 1
        self._readings[self._count] = _Reading(request=request, batch=batch, then=then)
        return [Load(DECISION_ROW, row, 1, LoadToken(self._count))]

    def _without_result(self, batch: Batch, index: int) -> Refused:
        task = batch.progress[index]
        if task.decided is None:
            return Refused(
                code=RefusalCode.NOT_YET,
                message=f"the task is {task.state}: {task.reason}",
                hint="`meshctl wait` waits for it",
            )
        return Refused(
            code=RefusalCode.REFUSED,
            message=f"the task has no result: it was {task.decided.kind}, {task.decided.reason}",
        )
