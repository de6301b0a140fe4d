"""Answers what people ask about tasks: where they are, what came out, and the receipt.

What is not in memory is loaded from the store; a question that nobody waits for is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.batch import BATCH_ROW, DECISION_ROW, Batch, BatchRow, DecisionRow
from scheduler.errors import ReceiptIncomplete
from scheduler.receipt import build_receipt
from scheduler.states import TaskState
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
)
from wire.commands import (
    CancelTask,
    GetReceipt,
    GetResult,
    GetTask,
    ListTasks,
    WaitBatch,
    WaitTask,
)
from wire.effects import Answer, Effect, Load
from wire.errors import MalformedId
from wire.events import Loaded
from wire.ids import BatchId, PeerId, task_id_from_text
from wire.membership import Genesis
from wire.signed import Signed, encode_body
from wire.tasks import OutcomeKind, open_result, prove_task

WAITERS_MAX = 1_000
PREFIX_LETTERS_MIN = 4

Place = tuple[Batch, int]
Then = Callable[[DecisionRow, BatchRow], AnswerValue]


@dataclass(frozen=True, slots=True)
class LoadToken:
    """Names a question that waits for the store."""

    number: int


@dataclass(slots=True, kw_only=True)
class _Waiter:
    batch: BatchId
    index: int | None  # None: all tasks of the batch


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
    _waiters: dict[int, _Waiter] = field(default_factory=dict)
    _readings: dict[int, _Reading] = field(default_factory=dict)
    _count: int = 0

    def on_asked(
        self,
        request: int,
        command: ListTasks | GetTask | WaitTask | WaitBatch | GetResult | CancelTask | GetReceipt,
    ) -> list[Effect]:
        """Answer now, or when there is an answer."""
        if isinstance(command, ListTasks):
            return [Answer(request, self._list(command.limit))]
        found = self._resolve(command.task)
        if isinstance(found, Refused):
            return [Answer(request, found)]
        batch, index = found
        match command:
            case GetTask():
                return [Answer(request, self._view(batch, index))]
            case WaitTask():
                return self._wait(request, batch, index)
            case WaitBatch():
                return self._wait(request, batch, None)
            case CancelTask():
                return [*self.cancel(batch, index), *self._wait(request, batch, index)]
            case GetResult():
                return self._result(request, batch, index)
            case GetReceipt():
                return self._receipt(request, batch, index, command)

    def on_asked_no_more(self, request: int) -> None:
        """Whoever asked has gone."""
        self._waiters.pop(request, None)
        for number in [n for n, one in self._readings.items() if one.request == request]:
            del self._readings[number]

    def on_changed(self, batch: Batch, index: int) -> list[Effect]:
        """Tell those who wait for a task."""
        effects: list[Effect] = []
        for request, waiter in list(self._waiters.items()):
            if waiter.batch != batch.batch or waiter.index not in (None, index):
                continue
            is_last = self._is_over(batch, waiter.index)
            if is_last:
                del self._waiters[request]
            effects.append(Answer(request, self._view(batch, index), is_last))
        return effects

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
            for task in batch.progress:
                counts[str(task.state)] += 1
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
        return batch.view(index, self.name_of)

    def _wait(self, request: int, batch: Batch, index: int | None) -> list[Effect]:
        if len(self._waiters) >= WAITERS_MAX:
            busy = Refused(
                code=RefusalCode.REFUSED, message=f"{WAITERS_MAX} commands are waiting already"
            )
            return [Answer(request, busy)]
        shown = range(len(batch.progress)) if index is None else [index]
        is_over = self._is_over(batch, index)
        if not is_over:
            self._waiters[request] = _Waiter(batch=batch.batch, index=index)
        return [
            Answer(request, self._view(batch, one), is_over and one == shown[-1]) for one in shown
        ]

    def _is_over(self, batch: Batch, index: int | None) -> bool:
        return batch.is_decided if index is None else batch.progress[index].decided is not None

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
                    (decision.vote,),
                    decision.chains,
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
            busy = Refused(
                code=RefusalCode.REFUSED, message=f"{WAITERS_MAX} commands are waiting already"
            )
            return [Answer(request, busy)]
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

    def _resolve(self, reference: str) -> Place | Refused:
        unknown = Refused(
            code=RefusalCode.NOT_FOUND,
            message=f"unknown task {reference[:80]!r}",
            hint="`meshctl tasks` lists those this device knows",
        )
        try:
            task = task_id_from_text(reference)
        except MalformedId:
            return self._resolve_prefix(reference, unknown)
        batch = self.batches.get(task.batch)
        if batch is None or not batch.is_durable or task.index >= len(batch.progress):
            return unknown
        return batch, task.index

    def _resolve_prefix(self, reference: str, unknown: Refused) -> Place | Refused:
        prefix, _, rest = reference.partition(".")
        index_text = rest.partition(".")[0]
        if len(prefix) < PREFIX_LETTERS_MIN or not (not index_text or index_text.isdecimal()):
            return unknown
        matching = [
            batch
            for batch in self.batches.values()
            if batch.is_durable and batch.view(0, self.name_of).batch.startswith(prefix)
        ]
        if len(matching) != 1:
            return unknown if not matching else _ambiguous(reference, len(matching))
        batch = matching[0]
        if not index_text and len(batch.progress) > 1:
            return _ambiguous(reference, len(batch.progress))
        index = int(index_text or 0)
        return (batch, index) if index < len(batch.progress) else unknown


def _ambiguous(reference: str, count: int) -> Refused:
    return Refused(
        code=RefusalCode.AMBIGUOUS,
        message=f"{reference!r} may be any of {count} tasks",
        hint="give more of the id, or its number: ID.0, ID.1, ...",
    )
