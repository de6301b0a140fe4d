"""Who waits for tasks: each change of a task is told to those who wait for it or for its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scheduler.batch import Batch
from wire.answers import RefusalCode, Refused, TaskView
from wire.effects import Answer, Effect
from wire.ids import BatchId

WAITERS_MAX = 1_000

# A task of a batch; None: all of them.
_Awaited = tuple[BatchId, int | None]


def too_many_refusal() -> Refused:
    """Return what is said to one command too many."""
    return Refused(code=RefusalCode.REFUSED, message=f"{WAITERS_MAX} commands are waiting already")


@dataclass(slots=True, kw_only=True)
class Waiters:
    """The requests that wait, WAITERS_MAX at most."""

    view: Callable[[Batch, int], TaskView]
    _awaited: dict[int, _Awaited] = field(default_factory=dict)
    _requests: dict[_Awaited, dict[int, None]] = field(default_factory=dict)

    def wait(self, request: int, batch: Batch, index: int | None) -> list[Effect]:
        """Answer with how it stands, and go on until it is decided."""
        if len(self._awaited) >= WAITERS_MAX:
            return [Answer(request, too_many_refusal())]
        shown = range(len(batch.progress)) if index is None else [index]
        is_over = _is_over(batch, index)
        if not is_over:
            self._awaited[request] = batch.batch, index
            self._requests.setdefault((batch.batch, index), {})[request] = None
        return [
            Answer(request, self.view(batch, one), is_over and one == shown[-1]) for one in shown
        ]

    def drop(self, request: int) -> None:
        """Whoever asked has gone, or has its last answer."""
        awaited = self._awaited.pop(request, None)
        if awaited is None:
            return
        del self._requests[awaited][request]
        if not self._requests[awaited]:
            del self._requests[awaited]

    def on_changed(self, batch: Batch, indices: Sequence[int]) -> list[Effect]:
        """Tell those who wait for tasks that changed at once; the last is told last."""
        if not self._requests:
            return []
        effects: list[Effect] = []
        for position, index in enumerate(indices):
            is_last = position == len(indices) - 1
            effects += self._tell(batch, index, index, is_last=True)
            effects += self._tell(batch, index, None, is_last=is_last)
        return effects

    def _tell(
        self, batch: Batch, index: int, awaited: int | None, *, is_last: bool
    ) -> list[Effect]:
        requests = list(self._requests.get((batch.batch, awaited), ()))
        is_over = is_last and _is_over(batch, awaited)
        if is_over:
            for request in requests:
                self.drop(request)
        return [Answer(request, self.view(batch, index), is_over) for request in requests]


def _is_over(batch: Batch, index: int | None) -> bool:
    return batch.is_decided if index is None else batch.progress[index].decided is not None
