"""Running a map: batches go out, outputs come in, what failed and may go better goes out again.

At most BATCHES_OPEN_MAX batches are under way. Each is followed in a thread that only passes on
what has ended; all else happens in one place.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Protocol

from meshd.cli.following import outcome_text
from meshd.cli.map_items import Item, batches_of, task_input
from meshd.cli.map_state import MapState
from meshd.cli.program_output import save_output
from meshd.client import ControlClient
from meshd.control_errors import CommandRefused, ContactLost
from meshd.control_frames import Frame
from wire.errors import MeshError

BATCHES_OPEN_MAX: Final = 2


class Progress(Protocol):
    """Who is told how a map goes."""

    def on_change(self, *, done: int, failed: int, total: int) -> None:
        """Hear the counts, whenever one changes."""
        ...

    def on_failure(self, name: str, reason: str, *, is_tried_again: bool) -> None:
        """Hear that a task ended without an output."""
        ...


@dataclass(frozen=True, slots=True)
class _Ended:
    """A task has ended; or, without a view, its batch has, well or in `error`."""

    first: str
    view: Frame | None
    error: MeshError | None = None


@dataclass(slots=True, kw_only=True)
class MapRun:
    """One run over the items that are not done. `terms` are as the daemon takes them."""

    connect: Callable[[], ControlClient]
    module: bytes
    args: Sequence[str]
    env: dict[str, str]
    terms: Frame
    items: list[Item]
    state: MapState
    again_max: int
    progress: Progress
    _open: set[str] = field(default_factory=set)  # batches, as `MapState.batches` names them
    _again: list[int] = field(default_factory=list)  # to be submitted when their batch has ended
    _tries: dict[int, int] = field(default_factory=dict)
    _ended: SimpleQueue[_Ended] = field(default_factory=SimpleQueue)

    def run(self) -> None:
        """Return when each item is done or has failed. Raises FileFailed and MeshError."""
        with self.connect() as client:
            for first in self._batches_of_before():
                self._follow(first)
            waiting = deque(self._cut(self._not_submitted()))
            while waiting or self._open:
                while waiting and len(self._open) < BATCHES_OPEN_MAX:
                    self._submit(client, waiting.popleft())
                self._take_ended(client, self._ended.get())
                if not self._open:
                    waiting.extend(self._cut(self._again))
                    self._again = []

    @property
    def done_count(self) -> int:
        """How many outputs are there."""
        return len(self.state.done)

    # --- what is left to do ---------------------------------------------------------------------

    def _batches_of_before(self) -> list[str]:
        """Return the batches of a run before this one that may still have something for us."""
        self._forget_lost_outputs()
        return [first for first in self.state.batches if self._left(first)]

    def _forget_lost_outputs(self) -> None:
        for index in [one for one in self.state.done if not self._target(one).exists()]:
            self.state.done.discard(index)
        for index in self.state.failed:  # the person wants them tried again
            self.state.tasks.pop(index, None)
        self.state.failed.clear()

    def _left(self, first: str) -> list[int]:
        """Return the items of a batch that it has still to bring."""
        state = self.state
        return [
            index
            for index, task in state.batches[first].items()
            if state.tasks.get(index) == task
            and index not in state.done
            and index not in state.failed
        ]

    def _not_submitted(self) -> list[int]:
        state = self.state
        return [
            one.index
            for one in self.items
            if one.index not in state.done and one.index not in state.tasks
        ]

    def _cut(self, indices: Sequence[int]) -> list[list[Item]]:
        words = [*self.args, *(word for pair in self.env.items() for word in pair)]
        text_bytes = sum(len(word.encode()) + 8 for word in words) + 128
        items = [self.items[index] for index in indices]
        return list(batches_of(items, text_bytes=text_bytes))

    # --- going out and coming in ----------------------------------------------------------------

    def _submit(self, client: ControlClient, batch: Sequence[Item]) -> None:
        count = len(self.items)
        tasks = [task_input(item, self.args, self.env, count=count) for item in batch]
        accepted = client.submit(self.module, tasks, **self.terms)
        indices = [item.index for item in batch]
        self.state.on_submitted(indices, accepted["tasks"])
        self._follow(str(accepted["tasks"][0]))

    def _follow(self, first: str) -> None:
        self._open.add(first)
        # It ends with the process at the latest: nothing is to be tidied up after it.
        threading.Thread(target=self._pass_on, args=(first,), daemon=True).start()

    def _pass_on(self, first: str) -> None:
        """Put whatever ends in a batch where the run takes it from. Runs in a thread."""
        try:
            with self.connect() as client:
                for view in client.follow({"command": "wait_batch", "task": first}):
                    if view["is_decided"]:
                        self._ended.put(_Ended(first, view))
        except MeshError as error:
            self._ended.put(_Ended(first, None, error))
        else:
            self._ended.put(_Ended(first, None))

    def _take_ended(self, client: ControlClient, ended: _Ended) -> None:
        """Take an output, or note why there is none."""
        if ended.view is None:
            return self._end_batch(ended)
        view, task = ended.view, str(ended.view["id"])
        left = self._left(ended.first)
        index = next((one for one in left if self.state.tasks[one] == task), None)
        if index is None:
            return None
        if view["outcome"] == "result" and view["status"] == "exited" and view["exit_code"] == 0:
            save_output(client, task, self._target(index))
            self.state.on_done(index)
            return self._tell()
        reason = f"{outcome_text(view)} ({task})"
        return self._take_failure(index, reason, may_go_better=_may_go_better(view))

    def _take_failure(self, index: int, reason: str, *, may_go_better: bool) -> None:
        tries = self._tries[index] = self._tries.get(index, 0) + 1
        is_tried_again = may_go_better and tries <= self.again_max
        self.progress.on_failure(self.items[index].name, reason, is_tried_again=is_tried_again)
        if is_tried_again:
            self.state.on_unknown(index)
            self._again.append(index)
        else:
            self.state.on_failed(index, reason)
            self._tell()

    def _end_batch(self, ended: _Ended) -> None:
        self._open.discard(ended.first)
        left = self._left(ended.first)
        if isinstance(ended.error, CommandRefused) and ended.error.code == "not_found":
            for index in left:
                reason = f"its daemon has forgotten it ({self.state.tasks[index]})"
                self._take_failure(index, reason, may_go_better=True)
            return
        if ended.error is not None:
            raise ended.error
        if left:
            raise ContactLost("the daemon stopped telling about tasks")

    def _target(self, index: int) -> Path:
        return self.state.directory / self.items[index].name

    def _tell(self) -> None:
        self.progress.on_change(
            done=self.done_count, failed=len(self.state.failed), total=len(self.items)
        )


def _may_go_better(view: Frame) -> bool:
    """Say whether the same task may end otherwise: what a program does itself never changes."""
    return bool(view["outcome"] == "failed" or view["status"] == "out_of_time")
